//! Who may campaign when the site that led is lost, and when leadership goes home: pure decisions.

use std::time::Duration;

use saola_storage::failover::Failover;

/// What a voter sees that does not lead.
#[derive(Clone, Copy, Debug)]
pub struct CampaignView<'v> {
    /// No other site takes over by itself, by the replicated rule.
    pub is_held: bool,
    /// Where this voter is.
    pub own_site: &'v str,
    /// Where leadership was last, by the replicated state; empty: nobody has said.
    pub led_from: &'v str,
    /// A leader speaks.
    pub leader_known: bool,
    /// A voter of that site answers, so the site is not lost.
    pub site_answers: bool,
}

/// Whether a voter campaigns once it hears no leader. While failover is held it campaigns only for the loss of a node: at
/// the site that led, or while that site answers. It votes in any case.
pub fn may_campaign(view: &CampaignView<'_>) -> bool {
    let elsewhere = !view.led_from.is_empty() && view.led_from != view.own_site;
    !view.is_held || !elsewhere || (!view.leader_known && view.site_answers)
}

/// The sites must have protected each other for so long before leadership goes home after the loss of a node …
const STABLE: Duration = Duration::from_secs(30);
/// … and for so long after the loss of the site, or when it was moved on purpose, where it goes back by itself at all.
const STABLE_AFTER_LOSS: Duration = Duration::from_secs(600);

/// Whether leadership goes home: this leader is elsewhere, and the sites have been well for so long. `away`: home was lost
/// since leadership was there last, or somebody has moved it from there.
pub fn goes_home(rule: &Failover, own_site: &str, away: bool, well_for: Duration) -> bool {
    let is_elsewhere = !rule.home.is_empty() && rule.home != own_site;
    let stable = if away { STABLE_AFTER_LOSS } else { STABLE };
    is_elsewhere && well_for >= stable && (!away || rule.returns)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: CampaignView<'_> =
        CampaignView { is_held: true, own_site: "dr", led_from: "main", leader_known: false, site_answers: false };

    #[test]
    fn while_failover_is_held_nobody_campaigns_for_a_site_that_is_lost() {
        assert!(!may_campaign(&HELD));
        assert!(!may_campaign(&CampaignView { leader_known: true, site_answers: true, ..HELD }), "ahead of the loss");
        assert!(may_campaign(&CampaignView { is_held: false, ..HELD }));
        assert!(may_campaign(&CampaignView { own_site: "main", ..HELD }), "a node was lost");
        assert!(may_campaign(&CampaignView { site_answers: true, ..HELD }), "a node was lost");
        assert!(may_campaign(&CampaignView { led_from: "", ..HELD }), "nothing is known to be lost");
    }

    #[test]
    fn leadership_goes_home_only_when_the_sites_have_been_well_for_long_enough() {
        let rule = |returns| Failover { home: "main".into(), returns, ..Failover::default() };
        let after = |seconds, away, returns| goes_home(&rule(returns), "dr", away, Duration::from_secs(seconds));
        assert!(after(30, false, false) && !after(29, false, true));
        assert!(!after(9_999, true, false), "no automatic failback unless it was asked for");
        assert!(after(600, true, true) && !after(599, true, true));
        let long = Duration::from_secs(9_999);
        assert!(!goes_home(&rule(true), "main", false, long), "it is at home");
        assert!(!goes_home(&Failover::default(), "dr", false, long), "it belongs nowhere");
    }
}
