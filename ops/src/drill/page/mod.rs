//! A report as one page that needs nothing else: for a director who has a minute, and an inspector who has more.
//!
//! Both languages stand in it, and a switch without a script shows one. The signed report itself is part of it, so that
//! `saola drill verify` takes the page as it takes the JSON file.

mod chart;
mod words;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::checks::{Check, Code, Verdict};
use super::report::{Earlier, Fork, Report};
use super::signed::{PAGE_BEGIN, PAGE_END, short_key};
use crate::output::grouped;
use words::{both, each, moment, span, text};

/// The page; `signed` is the text of the signed report, `sha256` its hash, `public_key` whose it is.
pub fn page(report: &Report, signed: &str, sha256: &str, public_key: &str) -> String {
    let style = PreEscaped(include_str!("style.css"));
    let page = html! {
        (DOCTYPE)
        html lang="vi" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (report.scenario.title.vi) " · " (report.cluster.name) " · " (report.number) }
                style { (style) }
            }
            body {
                input type="radio" name="language" id="vi" checked;
                input type="radio" name="language" id="en";
                div.languages { label for="vi" { "Tiếng Việt" } label for="en" { "English" } }
                main {
                    (head(report))
                    (in_a_sentence(report))
                    (cards(report))
                    @if !report.timeline.acked.is_empty() { (timeline(report)) }
                    @if let Some(fork) = &report.fork { (copy(fork)) }
                    (checks(report))
                    @if !report.findings.is_empty() { (findings(report)) }
                    (steps(report))
                    (earlier(report))
                    (about(report))
                    (proof(report, sha256, public_key))
                }
                (PreEscaped(format!("{PAGE_BEGIN}{signed}{PAGE_END}")))
            }
        }
    };
    page.into_string()
}

fn head(report: &Report) -> Markup {
    html! {
        header {
            div {
                div.soft { (both("Report of a disaster-recovery drill", "Báo cáo diễn tập khôi phục sau thảm họa")) " № " (report.number) }
                h1 { (text(&report.scenario.title)) }
                div {
                    (both("Cluster", "Cụm")) " " b { (report.cluster.name) } " · " (moment(report.began_us)) " · "
                    (both("held by", "người thực hiện:")) " " b { (report.by) }
                }
                div.soft { (words::level(report.scenario.level)) }
            }
            div class=(format!("badge {}", report.verdict.as_str())) { (words::verdict(report.verdict)) }
        }
    }
}

/// What a director should know.
fn in_a_sentence(report: &Report) -> Markup {
    let lost = report.writes.as_ref().and_then(|writes| writes.audit).map(|audit| audit.lost);
    let acked = report.writes.as_ref().map_or(0, |writes| writes.acked);
    html! {
        p.says {
            (text(&report.scenario.purpose)) " "
            @match (report.rto_ms(), lost) {
                (Some(rto_ms), Some(lost)) => {
                    (both(
                        &format!("Writing was interrupted for at most {}; of {} acknowledged writes {} were lost.", span(rto_ms), grouped(acked), grouped(lost)),
                        &format!("Việc ghi gián đoạn nhiều nhất {}; trong {} bản ghi đã xác nhận, số bị mất là {}.", span(rto_ms), grouped(acked), grouped(lost)),
                    ))
                }
                (Some(_), None) => (both(
                    "What was written could not be read back: nobody knows whether anything was lost.",
                    "Không đọc lại được dữ liệu đã ghi: chưa biết có mất bản ghi nào không.",
                )),
                (None, _) if report.scenario.acts() => (both("Nothing was done to the cluster yet.", "Chưa thực hiện tác động nào lên cụm.")),
                _ if report.findings.is_empty() => (both("Nothing was found.", "Không phát hiện vấn đề nào.")),
                _ => (both(
                    &format!("{} things want attention.", report.findings.len()),
                    &format!("Có {} vấn đề cần xử lý.", report.findings.len()),
                )),
            }
            @if let Some(why) = &report.broken_off { " (" (words::broken_off(why)) ")" }
        }
    }
}

fn card(held: bool, label: Markup, figure: &str, beside: Markup) -> Markup {
    html! {
        div class=(if held { "card held" } else { "card missed" }) { span.soft { (label) } b { (figure) } (beside) }
    }
}

fn cards(report: &Report) -> Markup {
    let held = |code| report.checks.iter().find(|it| it.code == code).is_none_or(|it| it.held);
    let nothing = html! {};
    html! {
        div.cards {
            @if let (Some(rto_ms), Some(targets)) = (report.rto_ms(), &report.scenario.targets) {
                (card(held(Code::Rto), both("Interruption of writing (RTO)", "Gián đoạn ghi (RTO)"), &span(rto_ms),
                    both(&format!("target {}", span(targets.rto_ms)), &format!("mục tiêu {}", span(targets.rto_ms)))))
            }
            @if let Some(promotion) = report.fork.as_ref().and_then(|fork| fork.promotion.as_ref()) {
                @let target = report.scenario.targets.as_ref().and_then(|targets| targets.promotion_ms).map(span).unwrap_or_default();
                (card(held(Code::CopyPromoted), both("Promotion, last approval to first write", "Chuyển quyền: từ phê duyệt cuối đến lần ghi đầu"), &span(promotion.took_ms),
                    both(&format!("target {target}"), &format!("mục tiêu {target}"))))
            }
            @if let Some(writes) = &report.writes {
                @let lost = writes.audit.map_or("?".to_owned(), |audit| grouped(audit.lost));
                (card(held(Code::NothingLost), both("Acknowledged writes lost (RPO)", "Bản ghi đã xác nhận bị mất (RPO)"), &lost,
                    both(&format!("of {}", grouped(writes.acked)), &format!("trong {}", grouped(writes.acked)))))
                (card(held(Code::CopiesEqual), both("Copies afterwards", "Các bản sao sau diễn tập"), if held(Code::CopiesEqual) { "=" } else { "≠" },
                    if held(Code::CopiesEqual) { both("all equal", "giống hệt nhau") } else { both("not proved equal", "chưa chứng minh được giống nhau") }))
            }
            @if let Some(ms) = report.unprotected_ms() {
                (card(true, both("Sites did not protect each other", "Hai địa điểm không bảo vệ nhau"), &span(ms),
                    if ms > 0 { both("a second loss would have hurt meanwhile", "nếu mất thêm một địa điểm lúc đó sẽ mất dữ liệu hoặc ngừng dịch vụ") } else { both("protected all along", "luôn được bảo vệ") }))
            }
            @if report.writes.is_none() {
                (card(report.findings.is_empty(), both("Findings", "Vấn đề phát hiện"), &report.findings.len().to_string(), nothing.clone()))
            }
            (card(report.broken_off.is_none(), both("Duration", "Thời lượng"), &span(report.took_ms), both("clean-up included", "gồm cả dọn dẹp")))
        }
    }
}

fn timeline(report: &Report) -> Markup {
    html! {
        h2 { (both("How it went", "Diễn biến")) }
        (chart::chart(report))
        div.legend {
            @for (place, site) in report.timeline.acked.keys().enumerate() {
                span { i style=(format!("background:{}", chart::colour(place))) {} (both(&format!("acknowledged writes of the writers at {site}"), &format!("ghi được xác nhận của tiến trình tại {site}"))) }
            }
            span { i style="background:#fee2e2" {} (both("longest interruption at one site", "gián đoạn dài nhất tại một địa điểm")) }
            span { (both("upper lane: who leads; lower lane: whether the sites protect each other; numbers: steps", "dải trên: nút lãnh đạo; dải dưới: hai địa điểm có bảo vệ nhau không; số: bước")) }
        }
    }
}

/// What was rehearsed on the copy.
fn copy(fork: &Fork) -> Markup {
    html! {
        h2 { (both("On the copy", "Trên bản sao")) }
        table {
            tr { td { (both("Copy of", "Bản sao của")) } td {
                (fork.node) " (" (fork.site) ") · " (both(
                    &format!("revision {}, {} bytes in {}", grouped(fork.revision), grouped(fork.bytes), span(fork.copied_ms)),
                    &format!("phiên bản dữ liệu {}, {} byte trong {}", grouped(fork.revision), grouped(fork.bytes), span(fork.copied_ms)),
                ))
            } }
            tr { td { (both("State digest", "Mã kiểm tra trạng thái")) } td { code { (fork.digest) } } }
            @if let Some(it) = &fork.promotion {
                tr { td { (both("Plan", "Kế hoạch")) } td {
                    code { (it.plan) } " · " (both(&format!("epoch {}", it.epoch), &format!("kỷ nguyên {}", it.epoch))) " · "
                    (words::loss(&it.loss, it.lost_revisions))
                } }
                tr { td { (both("Approved by", "Người phê duyệt")) } td {
                    @if it.needed == 0 { (both("nobody has to: no approvers are named", "không yêu cầu: chưa chỉ định người phê duyệt")) }
                    @else { b { (it.approved_by.join(", ")) } " · " (both(&format!("{} needed, after {}", it.needed, span(it.approvals_ms)), &format!("cần {}, sau {}", it.needed, span(it.approvals_ms)))) }
                } }
            }
            @if let Some(it) = &fork.compared {
                tr { td { (both("Opened and compared", "Đã mở và so sánh")) } td { (both(
                    &format!("{} records of {} collections, {} differ", grouped(it.records), it.collections, grouped(it.different)),
                    &format!("{} bản ghi của {} bộ dữ liệu, {} khác nhau", grouped(it.records), it.collections, grouped(it.different)),
                )) } }
            }
        }
    }
}

fn mark(held: bool) -> Markup {
    if held {
        html! { span.yes { "✓" } }
    } else {
        html! { span.no { "✗" } }
    }
}

fn checks(report: &Report) -> Markup {
    html! {
        h2 { (both("What had to hold", "Các điều kiện phải đạt")) }
        table {
            tr { th {} th { (both("Condition", "Điều kiện")) } th.n { (both("Measured", "Đo được")) } th.n { (both("Asked", "Yêu cầu")) } }
            @for Check { code, held, measured, target } in &report.checks {
                tr { td.s { (mark(*held)) } td.w { (words::code(*code)) } td.n { (measured) } td.n { (target) } }
            }
        }
    }
}

fn findings(report: &Report) -> Markup {
    html! {
        h2 { (both("What was found", "Vấn đề phát hiện")) }
        table {
            tr { th { (both("Code", "Mã")) } th { (both("What", "Nội dung")) } th { (both("Next step", "Việc cần làm")) } }
            @for it in &report.findings { tr { td { code { (it.code) } } td { (it.what) } td { (it.next) } } }
        }
    }
}

fn steps(report: &Report) -> Markup {
    let outage = |step| report.outages.iter().find(|outage| outage.step == step);
    html! {
        h2 { (both("What was done", "Các bước đã thực hiện")) }
        table {
            tr { th.n { "№" } th { (both("Step", "Bước")) } th.n { (both("From", "Từ")) } th.n { (both("Took", "Kéo dài")) } th.n { (both("Next leader after", "Có lãnh đạo mới sau")) } th.n { (both("Interruption", "Gián đoạn")) } th {} }
            @for (number, step) in report.scenario.steps.iter().enumerate() {
                @let run = report.steps.iter().find(|run| run.step == number);
                tr {
                    td.n.s { (number + 1) }
                    td {
                        (each(|language| step.describe(language)))
                        @if let Some(why) = run.and_then(|run| run.failed.as_ref()) { div.no { (why) } }
                    }
                    td.n.s { @if let Some(run) = run { (span(run.began_ms)) } }
                    td.n.s { @if let Some(run) = run { (span(run.ended_ms - run.began_ms.min(run.ended_ms))) } }
                    td.n.s { @if let Some(ms) = outage(number).and_then(|it| it.next_leader_ms) { (span(ms)) } }
                    td.n.s {
                        @if let Some(outage) = outage(number) {
                            @for (site, ms) in &outage.sites { div { (site) " " (span(*ms)) } }
                        }
                    }
                    td { @match run { Some(run) => (mark(run.failed.is_none())), None => span.soft { "–" } } }
                }
            }
        }
        @if !report.timeline.events.is_empty() {
            details {
                summary { (both("Everything that was seen", "Mọi sự kiện ghi nhận được")) }
                table {
                    @for event in &report.timeline.events { tr { td.n.s { (span(event.at_ms)) } td { (words::seen(report, &event.what)) } } }
                }
            }
        }
        @if !report.left.is_empty() {
            p.no { (both("Not cleaned up:", "Chưa dọn dẹp được:")) }
            ul { @for it in &report.left { li { (it) } } }
        }
    }
}

fn earlier(report: &Report) -> Markup {
    let all: Vec<Earlier> = std::iter::once(report.in_short()).chain(report.earlier.iter().cloned()).collect();
    let most = all.iter().filter_map(|it| it.rto_ms).max().unwrap_or(0).max(1);
    html! {
        @if all.len() > 1 {
            h2 { (both("Beside earlier drills of this kind", "So với các lần diễn tập trước")) }
            table {
                tr { th.n { "№" } th { (both("When", "Thời điểm")) } th { (both("Interruption", "Gián đoạn")) } th.n { (both("Lost", "Mất")) } th { (both("Verdict", "Kết luận")) } }
                @for it in &all {
                    tr {
                        td.n { (it.number) } td { (moment(it.began_us)) }
                        td {
                            @if let Some(rto_ms) = it.rto_ms {
                                span style=(format!("display:inline-block;height:10px;background:#94a3b8;width:{}px", 4 + rto_ms * 200 / most)) {} " " (span(rto_ms))
                            }
                        }
                        td.n { @if let Some(lost) = it.lost { (grouped(lost)) } }
                        td { span class=(if it.verdict == Verdict::Passed { "yes" } else { "no" }) { (words::verdict(it.verdict)) } }
                    }
                }
            }
        }
    }
}

fn about(report: &Report) -> Markup {
    html! {
        h2 { (both("On what", "Thực hiện trên")) }
        table {
            tr { th { (both("Node", "Nút")) } th { (both("Site", "Địa điểm")) } th { (both("Role", "Vai trò")) } th { (both("Release", "Phiên bản")) } }
            @for node in &report.cluster.nodes { tr { td { (node.name) } td { (node.site) } td { (node.role) } td { (node.release) } } }
        }
        p.soft {
            (both("Epoch", "Kỷ nguyên")) " " (report.cluster.epoch)
            @if !report.before.leader.is_empty() {
                " · " (both("before:", "trước:")) " " (report.before.leader) ", " (report.before.protection)
                " · " (both("afterwards:", "sau:")) " " (report.after.leader) ", " (report.after.protection)
            }
            @if let Some(writes) = &report.writes {
                " · " (both(
                    &format!("writes refused as surely not written: {}; of unknown outcome: {}", writes.refused, writes.unknown),
                    &format!("ghi bị từ chối (chắc chắn chưa ghi): {}; không rõ kết quả: {}", writes.refused, writes.unknown),
                ))
            }
        }
        @if !report.notes.is_empty() {
            h2 { (both("What people say about it", "Ghi chú của người tham gia")) }
            @for note in &report.notes { p { (note) } }
        }
    }
}

fn proof(report: &Report, sha256: &str, public_key: &str) -> Markup {
    html! {
        h2 { (both("How to check this report", "Cách kiểm tra báo cáo này")) }
        p {
            (both(
                "Checks and verdict are computed from what was measured. The report is signed and names the one before it:",
                "Các điều kiện và kết luận được tính từ số liệu đo. Báo cáo được ký số và nêu mã băm của báo cáo liền trước:",
            ))
            " " code { "saola drill verify FILE --signer NAME.pub" }
        }
        table {
            tr { td { (both("Signed by key", "Khóa ký")) } td { code { (short_key(public_key)) "…" } } }
            tr { td { "SHA-256" } td { code { (sha256) } } }
            tr { td { (both("Report before it", "Báo cáo liền trước")) } td { code { @match &report.previous_sha256 { Some(hash) => (hash), None => "–" } } } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{passed, rehearsed};
    use super::*;

    #[test]
    fn the_page_needs_nothing_else_and_says_what_people_wrote_as_they_wrote_it() {
        let page = page(&passed(), "{}", "00", "11");
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            let found = page.replace("http://www.w3.org/1999/xhtml", "").contains(outside);
            assert!(!found, "the page asks for something outside: {outside}");
        }
        assert!(page.contains("agreed with &lt;operations&gt; &amp; security"));
        for said in ["PASSED", "ĐẠT", "1.2 s", "target 5.0 s", "The site that leads is lost", "Mất địa điểm"]
        {
            assert!(page.contains(said), "{said}");
        }
        assert_eq!(page.matches(PAGE_BEGIN).count(), 1);
        let copy = super::page(&rehearsed(), "{}", "00", "11");
        for said in ["director, registrar", "205 records of 4 collections, 0 differ", "target 30.0 s", "nhiều nhất 0"]
        {
            assert!(copy.contains(said), "{said}");
        }
    }
}
