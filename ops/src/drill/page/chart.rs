//! The chart: acknowledged writes over time, who led, how the sites stood to each other, and what was done when.

use maud::{Markup, html};

use super::words;
use crate::drill::report::{Report, What};

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
/// Where the steps are marked, the writes drawn, and the two lanes lie.
const MARKS: f64 = 34.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 244.0;
const LEADER_LANE: f64 = 256.0;
const STATE_LANE: f64 = 284.0;
const LANE_HEIGHT: f64 = 20.0;
const AXIS: f64 = 322.0;
const HEIGHT: f64 = 336.0;
/// Sites in the order of their names.
const COLOURS: [&str; 4] = ["#2563eb", "#d97706", "#7c3aed", "#0d9488"];

/// Colour of a site, by its place among all.
pub fn colour(place: usize) -> &'static str {
    COLOURS[place % COLOURS.len()]
}

fn state_colour(state: &str) -> &'static str {
    match state {
        "SYNCHRONIZED" => "#16a34a",
        "SUSPECT" | "DEGRADING" | "RESYNCHRONIZING" | "WITNESS_LOST" => "#eab308",
        _ => "#dc2626",
    }
}

/// Something that lasted, on a lane.
struct Stretch {
    from_ms: u64,
    to_ms: u64,
    label: Markup,
    colour: &'static str,
}

/// The times at which something changed, as stretches from each to the next.
fn stretches<'r>(
    report: &'r Report,
    first: Option<(Markup, &'static str)>,
    change: impl Fn(&'r What) -> Option<(Markup, &'static str)>,
) -> Vec<Stretch> {
    let end = end_ms(report);
    let mut all: Vec<Stretch> = Vec::new();
    let later = report.timeline.events.iter().filter_map(|event| Some((event.at_ms.min(end), change(&event.what)?)));
    for (at_ms, (label, colour)) in first.into_iter().map(|first| (0, first)).chain(later) {
        if let Some(last) = all.last_mut() {
            last.to_ms = at_ms;
        }
        all.push(Stretch { from_ms: at_ms, to_ms: end, label, colour });
    }
    all
}

fn end_ms(report: &Report) -> u64 {
    let spans = report.timeline.acked.values().map(Vec::len).max().unwrap_or(1);
    (spans as u64 * report.timeline.span_ms).max(1)
}

fn lane(report: &Report, y: f64, all: &[Stretch]) -> Markup {
    html! {
        @for Stretch { from_ms, to_ms, label, colour } in all {
            @let (from, width) = (x(report, *from_ms), x(report, *to_ms) - x(report, *from_ms));
            rect x=(px(from)) y=(px(y)) width=(px(width.max(1.0))) height=(px(LANE_HEIGHT)) fill=(colour) fill-opacity="0.85" {
                title { (plain(label)) }
            }
            @if width > 90.0 {
                foreignObject x=(px(from + 4.0)) y=(px(y)) width=(px(width - 8.0)) height=(px(LANE_HEIGHT)) {
                    div.lane xmlns="http://www.w3.org/1999/xhtml" { (label) }
                }
            }
        }
    }
}

/// Without markup, for a title.
fn plain(label: &Markup) -> String {
    let (mut text, mut inside) = (String::new(), false);
    for c in label.0.chars() {
        match c {
            '<' => inside = true,
            '>' => {
                inside = false;
                text.push(' ');
            }
            c if !inside => text.push(c),
            _ => {}
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn x(report: &Report, at_ms: u64) -> f64 {
    let share = at_ms.min(end_ms(report)) as f64 / end_ms(report) as f64;
    LEFT + share * (WIDTH - LEFT - RIGHT)
}

fn px(at: f64) -> String {
    format!("{at:.1}")
}

/// A round number of seconds such that about eight of them fill the axis.
fn tick_s(end_ms: u64) -> u64 {
    let wanted = end_ms / 8_000;
    [1, 2, 5, 10, 15, 30, 60, 120, 300, 600].into_iter().find(|step| *step >= wanted).unwrap_or(1_800)
}

/// Draws it.
pub fn chart(report: &Report) -> Markup {
    let timeline = &report.timeline;
    let end = end_ms(report);
    let per_s = |count: u32| f64::from(count) * 1_000.0 / timeline.span_ms.max(1) as f64;
    let spans = timeline.acked.values().map(Vec::len).max().unwrap_or(0);
    let total = |span: usize| timeline.acked.values().filter_map(|counts| counts.get(span)).sum::<u32>();
    let most = (0..spans).map(total).max().unwrap_or(0).max(1);
    let height = |count: u32| f64::from(count) / f64::from(most) * (BOTTOM - TOP);
    let width = (WIDTH - LEFT - RIGHT) / spans.max(1) as f64;
    let sites: Vec<&String> = timeline.acked.keys().collect();
    let place = |site: &str| sites.iter().position(|it| *it == site).unwrap_or(sites.len());
    let leads = |node: &str, site: &str| (html! { (node) }, colour(place(site)));
    let leaders = stretches(report, Some(leads(&report.before.leader, &report.before.site)), |what| match what {
        What::Leader { node, site, .. } => Some(leads(node, site)),
        What::NoLeader => Some((words::both("nobody", "không có"), "#6b7280")),
        _ => None,
    });
    let state = |state: &str| (words::protection(state), state_colour(state));
    let states = stretches(report, Some(state(&report.before.protection)), |what| match what {
        What::Protection { state: now } => Some(state(now)),
        _ => None,
    });
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label="timeline" {
            @for outage in &report.outages {
                @let from = outage.from_ms;
                rect x=(px(x(report, from))) y=(px(TOP)) width=(px((x(report, from + outage.rto_ms) - x(report, from)).max(1.0)))
                    height=(px(BOTTOM - TOP)) fill="#fee2e2" {}
            }
            @for share in [0.0, 0.5, 1.0] {
                @let y = BOTTOM - share * (BOTTOM - TOP);
                line x1=(px(LEFT)) y1=(px(y)) x2=(px(WIDTH - RIGHT)) y2=(px(y)) stroke="#e5e7eb" {}
                text x=(px(LEFT - 6.0)) y=(px(y + 4.0)) text-anchor="end" { (format!("{:.0}/s", per_s(most) * share)) }
            }
            @for span in 0..spans {
                @let mut base = BOTTOM;
                @for (place, counts) in timeline.acked.values().enumerate() {
                    @let tall = height(counts.get(span).copied().unwrap_or(0));
                    @let () = base -= tall;
                    rect x=(px(LEFT + span as f64 * width)) y=(px(base)) width=(px(width + 0.3)) height=(px(tall)) fill=(colour(place)) {}
                }
            }
            @for run in &report.steps {
                @let acts = report.scenario.steps.get(run.step).is_some_and(|step| step.acts());
                @let at = x(report, run.began_ms);
                @if acts {
                    line x1=(px(at)) y1=(px(MARKS)) x2=(px(at)) y2=(px(STATE_LANE + LANE_HEIGHT)) stroke="#111827" stroke-dasharray="3 3" {}
                    circle cx=(px(at)) cy=(px(MARKS - 12.0)) r="11" fill="#111827" {}
                    text.mark x=(px(at)) y=(px(MARKS - 8.0)) text-anchor="middle" { (run.step + 1) }
                }
            }
            @for (y, label) in [(LEADER_LANE, words::both("leads", "lãnh đạo")), (STATE_LANE, words::both("sites", "địa điểm"))] {
                foreignObject x="0" y=(px(y)) width=(px(LEFT - 6.0)) height=(px(LANE_HEIGHT)) {
                    div.name xmlns="http://www.w3.org/1999/xhtml" { (label) }
                }
            }
            (lane(report, LEADER_LANE, &leaders))
            (lane(report, STATE_LANE, &states))
            @for tick in (0..).map(|n| n * tick_s(end) * 1_000).take_while(|at| *at <= end) {
                text x=(px(x(report, tick))) y=(px(AXIS)) text-anchor="middle" { (tick / 1_000) " s" }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::report::tests::passed;

    #[test]
    fn a_stretch_ends_where_the_next_begins_and_the_last_at_the_end() {
        let report = passed();
        let first = Some((html! { "SYNCHRONIZED" }, "green"));
        let states = stretches(&report, first, |what| match what {
            What::Protection { state } => Some((html! { (state) }, "red")),
            _ => None,
        });
        let spans: Vec<(u64, u64)> = states.iter().map(|it| (it.from_ms, it.to_ms)).collect();
        assert_eq!(spans, [(0, 4_100), (4_100, 20_000), (20_000, 30_000)]);
    }

    #[test]
    fn the_axis_has_a_handful_of_round_numbers() {
        assert_eq!([tick_s(9_000), tick_s(30_000), tick_s(100_000), tick_s(10_000_000)], [1, 5, 15, 1_800]);
    }

    #[test]
    fn what_a_label_says_is_found_without_its_markup() {
        assert_eq!(plain(&words::both("nobody", "không có")), "nobody không có");
    }
}
