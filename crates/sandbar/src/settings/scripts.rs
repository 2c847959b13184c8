//! What `sandbar serve` is told about scripts. Some of it has names that others gave it; they are honoured as they are, below
//! our own.

use std::str::FromStr;

use anyhow::bail;
use sandbar_core::script::{
    fetch_allow::{EntryError, FetchAllow},
    mail::SmtpConfig,
    provider::{self, Provider, ProviderSetting},
};
use sandbar_server::ScriptsConfig;
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{Layer, joined};

/// Who runs scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sandbox(pub ProviderSetting);

/// Hosts that `ctx.fetch` may ask: comma-separated text, in TOML also a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchHosts(pub FetchAllow);

/// A server that takes mail; none when it is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmtpUrl(pub Option<SmtpConfig>);

impl Layer {
    /// The settings that exist under the names of the product whose scripts these are.
    ///
    /// # Errors
    /// A value does not fit.
    pub(super) fn of_known_names(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        fn read<T: FromStr<Err: std::fmt::Display>>(name: &str, text: Option<String>) -> anyhow::Result<Option<T>> {
            text.map(|text| text.parse().map_err(|error| anyhow::anyhow!("{name}: {error}"))).transpose()
        }
        let trust_all = variable("FUNCTIONS_SANDBOX_TRUST_ALL_AUTHORS").map(|text| boolean(&text)).transpose();
        Ok(Self {
            functions_sandbox: read("FUNCTIONS_SANDBOX", variable("FUNCTIONS_SANDBOX"))?,
            functions_exec_url: variable("FUNCTIONS_EXEC_URL"),
            sandbox_rpc_token: variable("SANDBOX_RPC_TOKEN"),
            self_url: variable("SELF_URL"),
            functions_fetch_allow: read("FUNCTIONS_FETCH_ALLOW", variable("FUNCTIONS_FETCH_ALLOW"))?,
            functions_sandbox_trust_all_authors: trust_all.map_err(|error| anyhow::anyhow!("FUNCTIONS_SANDBOX_TRUST_ALL_AUTHORS: {error}"))?,
            ..Self::default()
        })
    }

    /// What is said about scripts, checked.
    pub(super) fn take_scripts(&mut self) -> anyhow::Result<ScriptsConfig> {
        let url = |name: &str, text: Option<String>| {
            let text = text.filter(|text| !text.is_empty());
            text.map(|text| provider::base_url(&text).map_err(|error| anyhow::anyhow!("{name}: {error}"))).transpose()
        };
        let config = ScriptsConfig {
            provider: self.functions_sandbox.take().map(|sandbox| sandbox.0).unwrap_or_default(),
            exec_url: url("functions_exec_url", self.functions_exec_url.take())?,
            rpc_token: self.sandbox_rpc_token.take().filter(|token| !token.is_empty()),
            self_url: url("self_url", self.self_url.take())?,
            fetch_allow: self.functions_fetch_allow.take().unwrap_or_default().0,
            trust_all_authors: self.functions_sandbox_trust_all_authors.unwrap_or(false),
            smtp: self.smtp_url.take().and_then(|url| url.0),
            mail_from: self.mail_from.take().filter(|text| !text.is_empty()),
            bun: self.bun.take().filter(|path| !path.as_os_str().is_empty()),
            cache_dir: self.script_cache_dir.take().filter(|path| !path.as_os_str().is_empty()),
        };
        if config.provider == ProviderSetting::Always(Provider::RemoteHttp) && config.exec_url.is_none() {
            bail!("functions_sandbox is remote-http, so functions_exec_url has to name the executor");
        }
        if let Some(token) = &config.rpc_token
            && (token.len() < 8 || token.len() > 200 || !token.bytes().all(|b| b.is_ascii_graphic()))
        {
            bail!("sandbox_rpc_token must be 8 to 200 visible ASCII characters");
        }
        Ok(config)
    }
}

/// Yes or no as people write it in variables.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "" | "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

impl FromStr for Sandbox {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl FromStr for FetchHosts {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        text.parse().map(Self)
    }
}

impl FromStr for SmtpUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(Self(None)) } else { text.parse().map(Some).map(Self) }
    }
}

impl<'de> Deserialize<'de> for Sandbox {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for FetchHosts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        joined(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for SmtpUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn known(variables: &[(&str, &str)]) -> anyhow::Result<Layer> {
        Layer::of_known_names(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn names_of_others_are_honoured_and_ours_are_stronger() {
        let variables = [
            ("FUNCTIONS_SANDBOX", "remote-http"),
            ("FUNCTIONS_EXEC_URL", "http://exec.test:8790/"),
            ("SANDBOX_RPC_TOKEN", "0123456789abcdef"),
            ("SELF_URL", "https://api.test/"),
            ("FUNCTIONS_FETCH_ALLOW", "api.example.com,*.cdn.io"),
            ("FUNCTIONS_SANDBOX_TRUST_ALL_AUTHORS", "1"),
        ];
        let scripts = known(&variables).unwrap().complete().unwrap().scripts;
        assert_eq!(scripts.provider, ProviderSetting::Always(Provider::RemoteHttp));
        assert_eq!(scripts.exec_url.as_deref(), Some("http://exec.test:8790"));
        assert_eq!(scripts.self_url.as_deref(), Some("https://api.test"));
        assert_eq!(scripts.rpc_token.as_deref(), Some("0123456789abcdef"));
        assert_eq!(scripts.fetch_allow.to_string(), "api.example.com,*.cdn.io");
        assert!(scripts.trust_all_authors);
        let ours = parse("functions_sandbox = 'quickjs'\nfunctions_fetch_allow = []\nfunctions_sandbox_trust_all_authors = false").unwrap();
        let scripts = ours.over(known(&variables).unwrap()).complete().unwrap().scripts;
        assert_eq!((scripts.provider, scripts.fetch_allow.is_empty()), (ProviderSetting::Always(Provider::QuickJs), true));
        assert!(!scripts.trust_all_authors);
    }

    #[test]
    fn nothing_said_is_the_safe_thing() {
        let scripts = parse("").unwrap().complete().unwrap().scripts;
        assert_eq!(scripts.provider, ProviderSetting::Auto);
        assert!(scripts.fetch_allow.is_empty() && !scripts.trust_all_authors && scripts.smtp.is_none() && scripts.exec_url.is_none());
        let empty = known(&[("FUNCTIONS_SANDBOX", ""), ("FUNCTIONS_EXEC_URL", ""), ("SANDBOX_RPC_TOKEN", ""), ("SELF_URL", ""), ("FUNCTIONS_FETCH_ALLOW", "")]);
        assert!(empty.unwrap().complete().unwrap().scripts.exec_url.is_none());
    }

    #[test]
    fn what_cannot_be_meant_is_an_error_at_the_start() {
        for (name, value) in [("FUNCTIONS_SANDBOX", "quick"), ("FUNCTIONS_FETCH_ALLOW", "https://a.test"), ("FUNCTIONS_SANDBOX_TRUST_ALL_AUTHORS", "maybe")] {
            let error = known(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        for text in ["functions_sandbox = 'bun'", "functions_fetch_allow = ['a b']", "smtp_url = 'mail.test'", "functions_fetch_allow = 'a.test:0'"] {
            assert!(parse(text).is_err(), "{text}");
        }
        for text in ["functions_sandbox = 'remote-http'", "functions_exec_url = 'exec.test'", "self_url = 'ftp://a.test'", "sandbox_rpc_token = 'short'"] {
            assert!(parse(text).unwrap().complete().is_err(), "{text}");
        }
    }
}
