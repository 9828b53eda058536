//! The user's settings of rules: which rules apply, and to whose calls.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::RuleId;

/// Modules that one rule can be limited to.
const MODULES: usize = 64;
/// The longest name of a module, in bytes.
const NAME: usize = 255;

/// The setting of one rule; written `NAME=off`, or `NAME=MODULE,...`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSetting {
    /// The rule.
    pub rule: RuleId,
    /// File names of the modules whose calls are held against it, in lower case; none: it is off.
    pub modules: Vec<String>,
}

impl FromStr for RuleSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = "write NAME=off, or NAME=MODULE,... to hold only the calls of these modules against the rule";
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| format!("`{text}` has no `=`: {usage}"))?;
        let is_meant = |rule: &&RuleId| rule.meta().name.eq_ignore_ascii_case(name.trim());
        let rule = RuleId::ALL.iter().find(is_meant).copied().ok_or_else(|| {
            let names: Vec<&str> = RuleId::ALL.iter().map(|rule| rule.meta().name).collect();
            format!("there is no rule `{name}`: the rules are {}", names.join(", "))
        })?;
        if value.trim().eq_ignore_ascii_case("off") {
            return Ok(Self {
                rule,
                modules: Vec::new(),
            });
        }
        if value.trim().eq_ignore_ascii_case("on") {
            return Err(format!(
                "`{text}`: every rule is on that is not switched off; leave this out"
            ));
        }
        let modules: Vec<String> = value.split(',').map(|module| module.trim().to_lowercase()).collect();
        if modules.iter().any(|module| module.is_empty() || module.len() > NAME) || modules.len() > MODULES {
            return Err(format!("`{value}` names no modules: {usage}"));
        }
        Ok(Self { rule, modules })
    }
}

impl std::fmt::Display for RuleSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.rule.meta().name;
        if self.modules.is_empty() {
            write!(f, "{name}=off")
        } else {
            write!(f, "{name}={}", self.modules.join(","))
        }
    }
}

/// The settings of all rules. By default every rule is on, for everybody's calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSettings(Vec<RuleSetting>);

impl RuleSettings {
    /// Of several settings of one rule the last counts.
    #[must_use]
    pub fn new(settings: impl IntoIterator<Item = RuleSetting>) -> Self {
        let mut kept: Vec<RuleSetting> = Vec::new();
        for setting in settings {
            kept.retain(|known| known.rule != setting.rule);
            kept.push(setting);
        }
        Self(kept)
    }

    /// The setting of a rule; `None`: it is on for everybody.
    #[must_use]
    pub fn of(&self, rule: RuleId) -> Option<&RuleSetting> {
        self.0.iter().find(|setting| setting.rule == rule)
    }

    /// Whether a call is held against a rule that returns into the module of this name.
    pub(crate) fn applies(&self, rule: RuleId, module: Option<&str>) -> bool {
        let Some(setting) = self.of(rule) else { return true };
        module.is_some_and(|module| setting.modules.iter().any(|wanted| wanted.eq_ignore_ascii_case(module)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_read_as_it_is_written() {
        for text in ["LockOrder=off", "StorPortSpinLock4=a.sys,b.sys"] {
            assert_eq!(text.parse::<RuleSetting>().unwrap().to_string(), text);
        }
        assert_eq!(
            "lockorder = OFF".parse::<RuleSetting>().unwrap().to_string(),
            "LockOrder=off"
        );
        for wrong in [
            "LockOrder",
            "NoRule=off",
            "LockOrder=",
            "LockOrder=a.sys,,b.sys",
            "LockOrder=on",
        ] {
            assert!(wrong.parse::<RuleSetting>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_last_setting_of_a_rule_counts() {
        let settings = ["LockOrder=off", "LockOrder=A.sys", "LockStorage=off"];
        let settings = RuleSettings::new(settings.map(|text| text.parse().unwrap()));
        assert!(
            settings.applies(RuleId::LockOrder, Some("a.SYS")) && !settings.applies(RuleId::LockOrder, Some("b.sys"))
        );
        assert!(!settings.applies(RuleId::LockOrder, None) && !settings.applies(RuleId::LockStorage, Some("a.sys")));
        assert!(settings.applies(RuleId::DoubleAcquire, None));
    }
}
