//! The grammar: what it takes, what it refuses and where, and that printing is its inverse.

use proptest::prelude::*;

use super::*;

#[track_caller]
fn accepts(text: &str, printed: &str) {
    let policy = text.parse::<Policy>().map(|policy| policy.to_string());
    assert_eq!(policy.as_deref(), Ok(printed), "{text:?}");
    assert_eq!(printed.parse::<Policy>().unwrap().to_string(), printed);
}

/// Refused at this column, with this suggestion (or none, if empty).
#[track_caller]
fn refuses(text: &str, column: usize, suggestion: &str) {
    let error = text.parse::<Policy>().unwrap_err();
    assert_eq!(error.column(), column, "{error}");
    assert_eq!(error.suggestion().unwrap_or_default(), suggestion, "{error}");
}

#[test]
fn accepts_barmans_grammar() {
    accepts("REDUNDANCY 2 ", "REDUNDANCY 2");
    accepts("redundancy\t0", "REDUNDANCY 0");
    accepts("RECOVERY WINDOW OF 1 DAY", "RECOVERY WINDOW OF 1 DAYS");
    accepts(" Recovery  window of 7 Days", "RECOVERY WINDOW OF 7 DAYS");
    accepts("recovery window of 2 week", "RECOVERY WINDOW OF 2 WEEKS");
    accepts("RECOVERY WINDOW OF 12 MONTHS", "RECOVERY WINDOW OF 12 MONTHS");
}

#[test]
fn accepts_more_than_barman() {
    accepts("recovery window of 36 hours", "RECOVERY WINDOW OF 36 HOURS");
    accepts("recovery window of 1 year", "RECOVERY WINDOW OF 1 YEARS");
    accepts("redundancy 2 and recovery window of 3 days", "REDUNDANCY 2 AND RECOVERY WINDOW OF 3 DAYS");
    accepts("keep 7 daily", "KEEP 7 DAILY");
    accepts(
        "keep 12 monthly 24 hourly 7 daily 4 weekly 5 yearly in Europe/Berlin",
        "KEEP 24 HOURLY 7 DAILY 4 WEEKLY 12 MONTHLY 5 YEARLY IN Europe/Berlin",
    );
    accepts("keep 0 daily 1 weekly", "KEEP 1 WEEKLY");
    accepts("keep 1 daily in utc and redundancy 1", "KEEP 1 DAILY IN utc AND REDUNDANCY 1");
    accepts("keep 1 daily in Etc/GMT+2", "KEEP 1 DAILY IN Etc/GMT+2");
}

#[test]
fn verified_stands_before_after_or_beside() {
    accepts("redundancy 2 verified", "REDUNDANCY 2 VERIFIED");
    accepts("verified redundancy 2", "REDUNDANCY 2 VERIFIED");
    accepts("redundancy 2 and verified", "REDUNDANCY 2 VERIFIED");
    accepts("verified and redundancy 2 and keep 1 daily", "REDUNDANCY 2 VERIFIED AND KEEP 1 DAILY VERIFIED");
    accepts("redundancy 2 verified and keep 1 daily", "REDUNDANCY 2 VERIFIED AND KEEP 1 DAILY");
    accepts("keep 1 daily in UTC verified", "KEEP 1 DAILY IN UTC VERIFIED");
    refuses("verified", 9, "");
    refuses("verified and verified", 22, "");
}

#[test]
fn refuses_with_the_column_and_a_guess() {
    refuses("", 1, "");
    refuses("  ", 3, "");
    refuses("REDUNDANCY", 11, "");
    refuses("REDUNDANCY -1", 12, "REDUNDANCY 1");
    refuses("REDUNDANCY +1", 12, "REDUNDANCY 1");
    refuses("REDUNDANCY 2 3", 14, "");
    refuses("REDUNDANCY two", 12, "");
    refuses("REDUNDANCY 99999999999", 12, "");
    refuses("REDUNDANCY=2", 1, "REDUNDANCY 2");
    refuses("redundancy: 2", 1, "REDUNDANCY 2");
    refuses("REDUNDANCE 2", 1, "REDUNDANCY 2");
    refuses("3 copies", 1, "REDUNDANCY 3");
    refuses("keep 3 backups", 8, "REDUNDANCY 3");
    refuses("recovery_window_of_7_days", 1, "RECOVERY WINDOW OF 7 DAYS");
    refuses("RECOVERY-WINDOW-OF-7-DAYS", 1, "RECOVERY WINDOW OF 7 DAYS");
    refuses("recovery window 7 days", 17, "RECOVERY WINDOW OF 7 DAYS");
    refuses("RECOVERY WINDOW OF 7DAYS", 20, "RECOVERY WINDOW OF 7 DAYS");
    refuses("RECOVERY WINDOW OF 7d", 20, "RECOVERY WINDOW OF 7 DAYS");
    refuses("RECOVRY WINDWO OF 7 DAYZ", 1, "RECOVERY WINDOW OF 7 DAYS");
    refuses("retention window of 7 days", 1, "RECOVERY WINDOW OF 7 DAYS");
    refuses("window of 3 days", 1, "RECOVERY WINDOW OF 3 DAYS");
    refuses("7 days", 1, "RECOVERY WINDOW OF 7 DAYS");
    refuses("RECOVERY WINDOW OF 3", 21, "");
    refuses("RECOVERY WINDOW OF 3 DAYSS", 22, "RECOVERY WINDOW OF 3 DAYS");
    refuses("RECOVERY WINDOW OF 3 DAYS LONG", 27, "");
    refuses("REDUNDANCY 2 AND", 17, "");
    refuses("keep 7 daily 3 daily", 16, "");
    refuses("keep 0 daily", 6, "");
    refuses("keep 7 dayly", 8, "KEEP 7 DAILY");
    refuses("keep 7 daily in", 16, "");
    refuses("keep 7 daily in /etc/localtime", 17, "");
    refuses("keep 1 daily in UTC and keep 1 weekly in Asia/Tokyo", 1, "");
    refuses(&"x".repeat(5000), 1, "");
    // Columns are characters, not bytes.
    refuses("REDUNDANCY \u{e9}\u{e9} 2", 12, "REDUNDANCY 2");
    refuses("\u{e9} 7 days", 1, "RECOVERY WINDOW OF 7 DAYS");
}

#[test]
fn an_error_is_one_clear_line() {
    let error = "RECOVERY WINDOW OF 7 DAYZ".parse::<Policy>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"RECOVERY WINDOW OF 7 DAYZ\" is not a retention policy: at column 22, expected HOURS, DAYS, WEEKS, MONTHS \
         or YEARS but found \"DAYZ\"; did you mean \"RECOVERY WINDOW OF 7 DAYS\"?"
    );
    assert_eq!(error.expected(), "HOURS, DAYS, WEEKS, MONTHS or YEARS");
}

#[test]
fn wal_policies() {
    let reads = |text: &str| {
        text.parse::<WalPolicy>()
            .map(|policy| policy.to_string())
            .map_err(|e| format!("{} {}", e.column(), e.suggestion().unwrap_or_default()))
    };
    assert_eq!(reads(" main "), Ok("MAIN".to_owned()));
    assert_eq!(reads("window of 3 hours"), Ok("WINDOW OF 3 HOURS".to_owned()));
    assert_eq!(reads("recovery window of 3 days"), Err("1 WINDOW OF 3 DAYS".to_owned()));
    assert_eq!(reads("3 days"), Err("1 WINDOW OF 3 DAYS".to_owned()));
    assert_eq!(reads("mian"), Err("1 MAIN".to_owned()));
    assert_eq!(reads("main main"), Err("6 ".to_owned()));
    assert_eq!(reads("window 3 days"), Err("8 WINDOW OF 3 DAYS".to_owned()));
    assert_eq!(reads(""), Err("1 ".to_owned()));
}

fn any_window() -> impl Strategy<Value = Window> {
    let units = prop::sample::select(vec![
        WindowUnit::Hours,
        WindowUnit::Days,
        WindowUnit::Weeks,
        WindowUnit::Months,
        WindowUnit::Years,
    ]);
    (any::<u32>(), units).prop_map(|(count, unit)| Window { count, unit })
}

fn any_clause() -> impl Strategy<Value = Clause> {
    let calendar = (any::<[u16; 5]>(), any::<bool>()).prop_map(|(counts, zone)| {
        let [hourly, daily, weekly, monthly, yearly] = counts.map(u32::from);
        let zone = zone.then(|| "America/Argentina/Buenos_Aires".to_owned());
        Rule::Keep(Calendar { hourly, daily, weekly, monthly, yearly, zone })
    });
    let rule = prop_oneof![
        any::<u32>().prop_map(Rule::Redundancy),
        any_window().prop_map(Rule::RecoveryWindow),
        calendar,
    ];
    (rule, any::<bool>()).prop_map(|(rule, verified)| Clause { rule, verified })
}

proptest! {
    #[test]
    fn the_printed_form_reads_back(clauses in prop::collection::vec(any_clause(), 1..4), window in any_window()) {
        if let Some(policy) = Policy::new(clauses) {
            prop_assert_eq!(policy.to_string().parse(), Ok(policy.clone()));
            prop_assert_eq!(policy.to_string().to_lowercase().parse::<Policy>().map(|p| p.to_string().to_lowercase()), Ok(policy.to_string().to_lowercase()));
        }
        prop_assert_eq!(WalPolicy::Window(window).to_string().parse(), Ok(WalPolicy::Window(window)));
    }

    #[test]
    fn parsing_never_panics(text: String) {
        let _ = text.parse::<Policy>();
        let _ = text.parse::<WalPolicy>();
    }

    /// Nor does it on nearly right texts; a suggestion is always itself a policy.
    #[test]
    fn guesses_are_policies(words in prop::collection::vec("(?i)(redundancy|recovery|window|of|keep|and|verified|[0-9]{1,3}|days?|weekz|daily|in|utc|_|=)", 0..8), glue in "[ _=-]") {
        let text = words.join(&glue);
        if let Err(error) = text.parse::<Policy>() {
            prop_assert!(error.column() >= 1 && error.column() <= text.chars().count() + 1, "{}", error);
            if let Some(suggestion) = error.suggestion() {
                prop_assert_eq!(suggestion.parse::<Policy>().map(|p| p.to_string()), Ok(suggestion.to_owned()));
            }
        }
    }
}

/// What a wrong text is answered with.
fn suggestion(text: &str) -> Option<String> {
    text.parse::<Policy>().unwrap_err().suggestion().map(str::to_owned)
}

#[test]
fn what_is_too_far_from_a_policy_is_not_guessed() {
    assert_eq!(suggestion("recovery window of 7 dya").as_deref(), Some("RECOVERY WINDOW OF 7 DAYS"));
    // Two slips in three letters, and as many as there are letters.
    assert_eq!(suggestion("recovery window of 7 dxz"), None);
    assert_eq!(suggestion("recovery window o 7 days"), None);
    // A number is the beginning of a window only before a unit.
    let both = "REDUNDANCY 3 AND RECOVERY WINDOW OF 7 DAYS";
    assert_eq!(suggestion("redundancy 3 and 7 days").as_deref(), Some(both));
}

#[test]
fn only_texts_of_a_policys_length_are_guessed_at() {
    let padded = |length| format!("{:_<length$}", "redundancy_3");
    assert_eq!(suggestion(&padded(256)).as_deref(), Some("REDUNDANCY 3"));
    assert_eq!(suggestion(&padded(257)), None);
}
