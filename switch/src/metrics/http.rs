//! As much of HTTP/1.1 (RFC 9112) as one `GET /metrics` takes. Pure: bytes in,
//! bytes out.
//!
//! Deliberately absent: bodies, keep-alive, compression, ranges. Each answer says
//! `Connection: close`, and is followed by that.

/// The longest head of a request, in bytes.
pub(super) const HEAD_MAX: usize = 8 * 1024;

/// What a request wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    /// The metrics, in this form.
    Metrics { form: Form, body: Body },
    /// A refusal: its status, and a word about it.
    Nothing(&'static str, &'static str),
}

/// Which format the client reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    OpenMetrics,
    Prometheus,
}

/// Whether it wants more than the head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Body {
    Sent,
    /// `HEAD`.
    Left,
}

/// Where the head of a request ends, if all of it is there.
pub(super) fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// What the request with this head wants.
pub(super) fn read(head: &[u8]) -> Wanted {
    let bad = Wanted::Nothing("400 Bad Request", "this is not HTTP");
    let Ok(text) = str::from_utf8(head) else { return bad };
    let mut lines = text.split("\r\n");
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, version] = words.as_slice() else { return bad };
    if !version.starts_with("HTTP/1.") {
        return bad;
    }
    let body = match *method {
        "GET" => Body::Sent,
        "HEAD" => Body::Left,
        _ => return Wanted::Nothing("405 Method Not Allowed", "metrics are read: GET /metrics"),
    };
    let path = target.split('?').next().unwrap_or_default();
    if path != "/metrics" {
        return Wanted::Nothing("404 Not Found", "there is only /metrics");
    }
    let accepts = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("accept").then(|| value.contains("application/openmetrics-text"))
    };
    let form = if lines.filter_map(accepts).any(|open| open) { Form::OpenMetrics } else { Form::Prometheus };
    Wanted::Metrics { form, body }
}

/// The answer with the metrics.
pub(super) fn metrics(form: Form, body: Body, text: &str) -> Vec<u8> {
    let kind = match form {
        Form::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        Form::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
    };
    answer("200 OK", kind, body, text)
}

/// The answer without them.
pub(super) fn refusal(status: &str, word: &str) -> Vec<u8> {
    answer(status, "text/plain; charset=utf-8", Body::Sent, &format!("{word}\n"))
}

fn answer(status: &str, kind: &str, body: Body, text: &str) -> Vec<u8> {
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
        text.len()
    );
    match body {
        Body::Sent => (head + text).into_bytes(),
        Body::Left => head.into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() {
        let metrics = |form, body| Wanted::Metrics { form, body };
        for (head, wanted) in [
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", metrics(Form::Prometheus, Body::Sent)),
            ("GET /metrics?x=1 HTTP/1.0\r\n\r\n", metrics(Form::Prometheus, Body::Sent)),
            ("HEAD /metrics HTTP/1.1\r\nAccept: */*\r\n\r\n", metrics(Form::Prometheus, Body::Left)),
            (
                "GET /metrics HTTP/1.1\r\naccept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n\r\n",
                metrics(Form::OpenMetrics, Body::Sent),
            ),
        ] {
            assert_eq!(head_end(head.as_bytes()), Some(head.len()));
            assert_eq!(read(head.as_bytes()), wanted, "{head}");
        }
        for (head, status) in [
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("GET /metrics/../etc/passwd HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("GET /metrics\r\n\r\n", "400"),
            ("GET /metrics SPDY/3\r\n\r\n", "400"),
            ("\r\n\r\n", "400"),
        ] {
            let Wanted::Nothing(told, _) = read(head.as_bytes()) else { panic!("{head}") };
            assert!(told.starts_with(status), "{head}: {told}");
        }
        assert!(matches!(read(b"\xff\xfe\r\n\r\n"), Wanted::Nothing("400 Bad Request", _)));
        assert_eq!(head_end(b"GET /metrics HTTP/1.1\r\n"), None);
    }

    #[test]
    fn answers_have_their_length_and_an_end() {
        let text = String::from_utf8(metrics(Form::OpenMetrics, Body::Sent, "a 1\n# EOF\n")).unwrap();
        assert!(
            text.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0;")
        );
        assert!(text.ends_with("Content-Length: 10\r\nConnection: close\r\n\r\na 1\n# EOF\n"), "{text}");
        let text = String::from_utf8(metrics(Form::Prometheus, Body::Left, "a 1\n")).unwrap();
        assert!(
            text.contains("text/plain; version=0.0.4")
                && text.ends_with("Content-Length: 4\r\nConnection: close\r\n\r\n")
        );
        let text = String::from_utf8(refusal("405 Method Not Allowed", "no")).unwrap();
        assert!(text.contains("\r\nAllow: GET, HEAD\r\n") && text.ends_with("\r\n\r\nno\n"));
    }
}
