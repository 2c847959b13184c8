//! Which engine runs a script.

use std::str::FromStr;

use url::Url;

/// What the operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProviderSetting {
    /// The executor when there is one, else QuickJS.
    #[default]
    Auto,
    Always(Provider),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Provider {
    /// QuickJS in WebAssembly, in a walled process.
    QuickJs,
    /// Bun, in a sandbox.
    BunWorker,
    /// An executor that is reached over HTTP.
    RemoteHttp,
}

/// Why no engine is chosen although one is asked for.
pub const NO_EXECUTOR: &str = "FUNCTIONS_EXEC_URL is not configured";

/// Who runs a version of a script. Code that is not trusted never runs under `bun-worker`, unless the operator trusts all authors;
/// it runs where it is walled in.
///
/// # Errors
/// What the operator has to configure.
pub fn choose(setting: ProviderSetting, exec_url_set: bool, trusted: bool, trust_all: bool) -> Result<Provider, String> {
    match setting {
        ProviderSetting::Auto if exec_url_set => Ok(Provider::RemoteHttp),
        ProviderSetting::Auto => Ok(Provider::QuickJs),
        ProviderSetting::Always(Provider::RemoteHttp) if !exec_url_set => Err(NO_EXECUTOR.to_owned()),
        ProviderSetting::Always(Provider::BunWorker) if !(trusted || trust_all) => Ok(Provider::QuickJs),
        ProviderSetting::Always(provider) => Ok(provider),
    }
}

/// The URL of a server that paths are put behind, as it is kept: without a slash at the end.
///
/// # Errors
/// It is none that paths can be put behind.
pub fn base_url(text: &str) -> Result<String, String> {
    let url = Url::parse(text).map_err(|error| format!("{text:?} is no URL: {error}"))?;
    let is_base = matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none() && url.fragment().is_none();
    if !is_base || !url.username().is_empty() || url.password().is_some() {
        return Err(format!("{text:?} is not of the form http://HOST[:PORT][/PATH] or https://..."));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

impl Provider {
    pub const ALL: [Self; 3] = [Self::QuickJs, Self::BunWorker, Self::RemoteHttp];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::QuickJs => "quickjs",
            Self::BunWorker => "bun-worker",
            Self::RemoteHttp => "remote-http",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|provider| provider.as_str() == name)
    }
}

impl FromStr for ProviderSetting {
    type Err = String;

    /// A word that nobody knows is an error: one that was misspelt must not choose weaker walls.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "auto" | "" => Ok(Self::Auto),
            name => Provider::named(name).map(Self::Always).ok_or_else(|| format!("{name:?} is not auto, remote-http, bun-worker or quickjs")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_runs_it() {
        use Provider::{BunWorker, QuickJs, RemoteHttp};
        let none = || Err(NO_EXECUTOR.to_owned());
        // Setting, and for (executor, trusted, all trusted) in the order ---, --a, -t-, -ta, u--, u-a, ut-, uta.
        let table = [
            ("auto", [Ok(QuickJs), Ok(QuickJs), Ok(QuickJs), Ok(QuickJs), Ok(RemoteHttp), Ok(RemoteHttp), Ok(RemoteHttp), Ok(RemoteHttp)]),
            ("", [Ok(QuickJs), Ok(QuickJs), Ok(QuickJs), Ok(QuickJs), Ok(RemoteHttp), Ok(RemoteHttp), Ok(RemoteHttp), Ok(RemoteHttp)]),
            ("quickjs", [Ok(QuickJs), Ok(QuickJs), Ok(QuickJs), Ok(QuickJs), Ok(QuickJs), Ok(QuickJs), Ok(QuickJs), Ok(QuickJs)]),
            ("remote-http", [none(), none(), none(), none(), Ok(RemoteHttp), Ok(RemoteHttp), Ok(RemoteHttp), Ok(RemoteHttp)]),
            ("bun-worker", [Ok(QuickJs), Ok(BunWorker), Ok(BunWorker), Ok(BunWorker), Ok(QuickJs), Ok(BunWorker), Ok(BunWorker), Ok(BunWorker)]),
        ];
        for (word, expected) in table {
            let setting = word.parse().unwrap();
            for (at, expected) in expected.into_iter().enumerate() {
                let (url, trusted, all) = (at & 4 != 0, at & 2 != 0, at & 1 != 0);
                assert_eq!(choose(setting, url, trusted, all), expected, "{word} url {url} trusted {trusted} all {all}");
            }
        }
    }

    #[test]
    fn a_word_that_nobody_knows_is_an_error() {
        for word in ["quick-js", "QuickJS", "bun", "remote", "none", "auto,quickjs"] {
            assert!(word.parse::<ProviderSetting>().unwrap_err().contains(word), "{word}");
        }
        assert_eq!(Provider::ALL.map(|provider| Provider::named(provider.as_str())), Provider::ALL.map(Some));
    }

    #[test]
    fn servers_are_named_without_a_slash_at_the_end() {
        for (text, kept) in [
            ("http://127.0.0.1:8790", "http://127.0.0.1:8790"),
            ("https://Exec.Test/", "https://exec.test"),
            ("https://exec.test/below//", "https://exec.test/below"),
        ] {
            assert_eq!(base_url(text).as_deref(), Ok(kept));
        }
        for text in ["", "exec.test", "ftp://exec.test", "http://u:p@exec.test", "http://exec.test/?x", "http://exec.test/#x", "unix:/x"] {
            assert!(base_url(text).is_err(), "{text}");
        }
    }
}
