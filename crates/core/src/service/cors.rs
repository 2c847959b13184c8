//! Which answers a page of another origin may read.

use super::Route;

/// What a request says of its origin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CorsAsked<'a> {
    pub method: &'a str,
    pub origin: Option<&'a str>,
    /// `Access-Control-Request-Method`.
    pub wanted: Option<&'a str>,
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsAnswer {
    /// Nothing to do with it: goes on, with these headers on the answer.
    Pass(Vec<(&'static str, String)>),
    /// A question of the browser, answered here with 204.
    Preflight(Vec<(&'static str, String)>),
    /// A question of the browser that is denied.
    OriginRefused,
    MethodRefused,
}

impl Route {
    /// A browser's preflight is answered before the method is looked at; other requests of a foreign origin go on, and the
    /// browser keeps an answer without these headers from the page.
    pub fn cors(&self, asked: CorsAsked<'_>) -> CorsAnswer {
        let (Some(cors), Some(origin)) = (&self.cors, asked.origin) else { return CorsAnswer::Pass(Vec::new()) };
        let is_question = asked.method == "OPTIONS";
        let any = cors.allowed_origins.iter().any(|known| known == "*");
        // The answer depends on the origin, also when it is refused.
        let vary = ("Vary", "Origin".to_owned());
        if !any && !cors.allowed_origins.iter().any(|known| known.eq_ignore_ascii_case(origin)) {
            return if is_question { CorsAnswer::OriginRefused } else { CorsAnswer::Pass(vec![vary]) };
        }
        let mut headers = vec![("Access-Control-Allow-Origin", if any { "*".to_owned() } else { origin.to_owned() }), vary];
        if cors.allow_credentials {
            headers.push(("Access-Control-Allow-Credentials", "true".to_owned()));
        }
        if !is_question {
            if !cors.expose_headers.is_empty() {
                headers.push(("Access-Control-Expose-Headers", cors.expose_headers.join(", ")));
            }
            return CorsAnswer::Pass(headers);
        }
        let methods = if cors.allowed_methods.is_empty() { &self.methods } else { &cors.allowed_methods };
        let allowed = |wanted: &str| methods.is_empty() || methods.iter().any(|known| known == "*" || known == wanted);
        if asked.wanted.is_some_and(|wanted| !allowed(wanted)) {
            return CorsAnswer::MethodRefused;
        }
        // With credentials a browser takes the star for the name of a method, so what was asked for is named.
        let named = match asked.wanted {
            Some(wanted) if methods.is_empty() || methods.iter().any(|known| known == "*") => wanted.to_owned(),
            Some(_) | None => methods.join(", "),
        };
        if !named.is_empty() {
            headers.push(("Access-Control-Allow-Methods", named));
        }
        if !cors.allowed_headers.is_empty() {
            headers.push(("Access-Control-Allow-Headers", cors.allowed_headers.join(", ")));
        }
        if cors.max_age_seconds > 0 {
            headers.push(("Access-Control-Max-Age", cors.max_age_seconds.to_string()));
        }
        CorsAnswer::Preflight(headers)
    }
}
