//! What the page says, in both languages.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use maud::{Markup, html};

use crate::drill::checks::{Code, Verdict};
use crate::drill::report::{Report, What, Why};
use crate::drill::scenario::{Language, Level, Text};

/// A text twice: the page shows one of them.
pub fn both(en: &str, vi: &str) -> Markup {
    html! { span.en lang="en" { (en) } span.vi lang="vi" { (vi) } }
}

/// [`both`] of a text that has both.
pub fn text(text: &Text) -> Markup {
    both(&text.en, &text.vi)
}

/// What a function says in each language.
pub fn each(say: impl Fn(Language) -> String) -> Markup {
    both(&say(Language::En), &say(Language::Vi))
}

/// The verdict in a word.
pub fn verdict(verdict: Verdict) -> Markup {
    match verdict {
        Verdict::Passed => both("PASSED", "ĐẠT"),
        Verdict::Failed => both("FAILED", "KHÔNG ĐẠT"),
        Verdict::BrokenOff => both("BROKEN OFF", "DỪNG GIỮA CHỪNG"),
    }
}

/// The kind of a drill.
pub fn level(level: Level) -> Markup {
    match level {
        Level::L0 => both("L0 · checklist", "L0 · danh mục kiểm tra"),
        Level::L3 => both("L3 · on a copy, the cluster goes on", "L3 · trên bản sao, cụm vẫn hoạt động"),
        Level::L4 => both("L4 · one component fails", "L4 · hỏng một thành phần"),
        Level::L5 => both("L5 · planned switchover and back", "L5 · chuyển đổi có kế hoạch và quay lại"),
        Level::L6 => both("L6 · a site is really cut off", "L6 · cô lập thật một địa điểm"),
    }
}

/// What had to hold.
pub fn code(code: Code) -> Markup {
    match code {
        Code::ToTheEnd => both("It was held to its end", "Diễn tập được thực hiện đến cùng"),
        Code::StepsDone => both("Every step was done in time", "Mọi bước hoàn thành đúng hạn"),
        Code::NothingFound => both("The check finds nothing", "Kiểm tra không phát hiện vấn đề"),
        Code::Rto => both("Longest time without an acknowledged write (RTO)", "Thời gian gián đoạn ghi dài nhất (RTO)"),
        Code::ProtectedThroughout => {
            both("The sites protected each other all the time", "Hai địa điểm luôn được bảo vệ lẫn nhau")
        }
        Code::CopyPromoted => both(
            "The copy was promoted: last approval to first write",
            "Bản sao được chuyển quyền: từ phê duyệt cuối đến lần ghi đầu tiên",
        ),
        Code::CopySame => both(
            "Records of the copy that differ from the cluster's",
            "Số bản ghi của bản sao khác với dữ liệu của cụm",
        ),
        Code::WritersAtAllSites => {
            both("Writers of every site were served", "Tiến trình ghi ở mọi địa điểm đều được phục vụ")
        }
        Code::NothingLost => both("Acknowledged writes that are lost (RPO)", "Số bản ghi đã xác nhận bị mất (RPO)"),
        Code::NothingDoubled => both("Writes that are there twice", "Số bản ghi bị lặp"),
        Code::CopiesEqual => {
            both("All data nodes hold the same afterwards", "Sau diễn tập mọi nút dữ liệu giống hệt nhau")
        }
        Code::AsBefore => both("The cluster stands as before", "Cụm trở lại trạng thái như trước"),
        Code::NothingLeft => both("Nothing of the drill is left", "Không còn dấu vết diễn tập trên cụm"),
    }
}

/// What a plan said of the loss.
pub fn loss(loss: &str, revisions: u64) -> Markup {
    match loss {
        "PROVEN ZERO" => both("loss: PROVEN ZERO", "mất mát: chứng minh là không"),
        "BOUNDED" => both(
            &format!("loss: BOUNDED, at most {revisions} revisions"),
            &format!("mất mát: có giới hạn, nhiều nhất {revisions} lần ghi"),
        ),
        _ => both("loss: UNKNOWN", "mất mát: không xác định"),
    }
}

/// A state of the protection, for a director.
pub fn protection(state: &str) -> Markup {
    match state {
        "SYNCHRONIZED" => both("protected", "được bảo vệ"),
        "SUSPECT" | "DEGRADING" => both("in doubt", "đang nghi ngờ"),
        "UNSYNCHRONIZED" => both("not protected", "không được bảo vệ"),
        "RESYNCHRONIZING" => both("catching up", "đang đồng bộ lại"),
        "STALLED" => both("writes wait", "tạm dừng ghi"),
        "WITNESS_LOST" => both("witness lost", "mất nút chứng kiến"),
        other => both(other, other),
    }
}

/// Something that was seen.
pub fn seen(report: &Report, what: &What) -> Markup {
    match what {
        What::Step { step } => match report.scenario.steps.get(*step) {
            Some(doing) => each(|language| {
                let word = if language == Language::Vi { "bước" } else { "step" };
                format!("{word} {}: {}", step + 1, doing.describe(language))
            }),
            None => both("step", "bước"),
        },
        What::Leader { node, site, term } => both(
            &format!("{node} at site {site} leads (term {term})"),
            &format!("{node} tại địa điểm {site} lãnh đạo (nhiệm kỳ {term})"),
        ),
        What::NoLeader => both("nobody leads", "không có nút lãnh đạo"),
        What::Protection { state } => html! { (state) " — " (protection(state)) },
        What::BrokenOff { why } => broken_off(why),
    }
}

/// Why it was broken off.
pub fn broken_off(why: &Why) -> Markup {
    both(
        &format!("broken off: {}", why.describe(Language::En)),
        &format!("dừng giữa chừng: {}", why.describe(Language::Vi)),
    )
}

/// A moment: UTC for English, Vietnam's time for Vietnamese.
pub fn moment(us: u64) -> Markup {
    let at = i64::try_from(us).ok().and_then(|us| Timestamp::from_microsecond(us).ok()).unwrap_or_default();
    let viet_nam = at.to_zoned(TimeZone::fixed(Offset::constant(7)));
    both(
        &at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M UTC").to_string(),
        &viet_nam.strftime("%H:%M ngày %d/%m/%Y (UTC+7)").to_string(),
    )
}

/// Milliseconds as people say them: `850 ms`, `1.2 s`, `3 min 20 s`.
pub fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_moments_are_said_as_people_do() {
        assert_eq!([span(850), span(1_250), span(200_000)], ["850 ms", "1.2 s", "3 min 20 s"]);
        let shown = moment(1_782_864_000_000_000).into_string();
        assert!(shown.contains("2026-07-01 00:00 UTC") && shown.contains("07:00 ngày 01/07/2026 (UTC+7)"), "{shown}");
    }
}
