//! The rules of the module, one by one, and all of them against a linear scan.

use std::cmp::Ordering;

use proptest::prelude::*;

use super::{template::Token, *};

/// A router for any host with all routes in the base of all paths, each GET; a route's value is its position.
fn router(templates: &[&str]) -> Router {
    let mut builder = RouterBuilder::new();
    let base = builder.base(None, "").unwrap();
    for (value, template) in templates.iter().enumerate() {
        builder.add(base, template, Method::Get, value as u32).unwrap();
    }
    builder.build().unwrap()
}

fn get(router: &Router, path: &str) -> Option<(u32, Vec<String>)> {
    found(router.find(b"host", path.as_bytes(), Method::Get), path)
}

fn found(lookup: Lookup, path: &str) -> Option<(u32, Vec<String>)> {
    match lookup {
        Lookup::Found { value, parameters } => {
            let text = |span: &Span| String::from_utf8(span.of(path.as_bytes()).to_vec()).unwrap();
            Some((value, parameters.spans().iter().map(text).collect()))
        }
        _ => None,
    }
}

fn value(router: &Router, host: &str, path: &str) -> Option<u32> {
    found(router.find(host.as_bytes(), path.as_bytes(), Method::Get), path).map(|(value, _)| value)
}

#[test]
fn the_most_specific_template_wins() {
    let templates = [
        "/orders",             // 0
        "/orders/",            // 1
        "/orders/{id}",        // 2
        "/orders/special",     // 3
        "/orders/{id}.json",   // 4
        "/orders/sp{rest}",    // 5
        "/orders/{a}-{b}",     // 6
        "/orders/{+path}",     // 7
        "/orders/{id}/items",  // 8
        "/orders/special/{x}", // 9
        "/{any}/x/y",          // 10
    ];
    let router = router(&templates);
    type Found<'a> = Option<(u32, &'a [&'a str])>;
    let cases: &[(&str, Found)] = &[
        ("/orders", Some((0, &[]))),
        ("/orders/", Some((1, &[]))),
        ("/orders/1", Some((2, &["1"]))),
        ("/orders/special", Some((3, &[]))),
        ("/orders/1.json", Some((4, &["1"]))),
        ("/orders/.json", Some((2, &[".json"]))),
        ("/orders/spe", Some((5, &["e"]))),
        ("/orders/sp", Some((2, &["sp"]))),
        ("/orders/specialist", Some((5, &["ecialist"]))),
        ("/orders/a-b-c", Some((6, &["a", "b-c"]))),
        ("/orders/--b", Some((6, &["-", "b"]))),
        ("/orders/-b", Some((2, &["-b"]))),
        ("/orders/a-", Some((2, &["a-"]))),
        ("/orders/a-b.json", Some((4, &["a-b"]))),
        ("/orders/1/items", Some((8, &["1"]))),
        ("/orders/1/other", Some((7, &["1/other"]))),
        ("/orders/1/", Some((7, &["1/"]))),
        ("/orders//", None),
        ("/orders/special/7", Some((9, &["7"]))),
        ("/orders/special/items", Some((9, &["items"]))),
        ("/orders/x/y", Some((7, &["x/y"]))),
        ("/other/x/y", Some((10, &["other"]))),
        ("//x/y", None),
        ("/other", None),
        ("", None),
        ("*", None),
        ("orders", None),
    ];
    for (path, expected) in cases {
        let expected =
            expected.map(|(value, texts)| (value, texts.iter().map(|text| text.to_string()).collect()));
        assert_eq!(get(&router, path), expected, "{path}");
    }
}

#[test]
fn a_dead_end_goes_back() {
    let router = router(&["/a/b/{c}/d", "/a/{b}/c/e", "/{a}/b/c/f", "/{+all}"]);
    assert_eq!(get(&router, "/a/b/c/d").unwrap().0, 0);
    assert_eq!(get(&router, "/a/b/c/e"), Some((1, vec!["b".into()])));
    assert_eq!(get(&router, "/a/b/c/f"), Some((2, vec!["a".into()])));
    assert_eq!(get(&router, "/a/b/c/g"), Some((3, vec!["a/b/c/g".into()])));
}

#[test]
fn encoded_bytes_are_data() {
    let router = router(&["/a%20b/{x}"]);
    assert_eq!(get(&router, "/a%20b/c%2Fd"), Some((0, vec!["c%2Fd".into()])));
    assert_eq!(get(&router, "/a b/c"), None);
}

#[test]
fn the_path_decides_before_the_method() {
    let mut builder = RouterBuilder::new();
    let base = builder.base(None, "/v1").unwrap();
    builder.add(base, "/orders/{id}", Method::Delete, 1).unwrap();
    builder.add(base, "/orders/{id}", Method::Get, 2).unwrap();
    builder.add(base, "/orders/special", Method::Get, 3).unwrap();
    builder.add(base, "/orders", Method::Post, 4).unwrap();
    builder.add(base, "/orders", Method::Head, 5).unwrap();
    builder.add(base, "/orders", Method::Get, 6).unwrap();
    let router = builder.build().unwrap();
    let find = |path: &str, method| router.find(b"h", path.as_bytes(), method);
    let is = |path: &str, method| found(find(path, method), path).unwrap().0;
    assert_eq!(is("/v1/orders/1", Method::Delete), 1);
    assert_eq!(is("/v1/orders/1", Method::Get), 2);
    assert_eq!(is("/v1/orders/special", Method::Head), 3, "GET implies HEAD");
    assert_eq!(is("/v1/orders", Method::Head), 5, "but HEAD may have its own");
    assert_eq!(is("/v1/orders", Method::Get), 6);
    let allow = MethodSet::default().with(Method::Get).with(Method::Head);
    assert_eq!(find("/v1/orders/special", Method::Delete), Lookup::MethodNotAllowed { allow });
    assert_eq!(find("/v1/orders/special", Method::Other), Lookup::MethodNotAllowed { allow });
    assert_eq!(find("/v1/orders/", Method::Get), Lookup::NotFound);
    assert_eq!(find("/orders", Method::Get), Lookup::NotFound);
}

#[test]
fn ties_name_both_routes() {
    let mut builder = RouterBuilder::new();
    let base = builder.base(Some("a.example"), "/v1").unwrap();
    assert_eq!(builder.base(Some("a.example"), "/v1"), Ok(base));
    builder.add(base, "/x/{a}/y", Method::Get, 1).unwrap();
    builder.add(base, "/x/{a}-{b}/y", Method::Get, 2).unwrap();
    builder.add(base, "/x/{+a}", Method::Get, 3).unwrap();
    let tie = |value, other| Err(RouteError::Tie { value, other });
    assert_eq!(builder.add(base, "/x/{other}/y", Method::Get, 9), tie(9, 1));
    assert_eq!(builder.add(base, "/x/{c}-{d}/y", Method::Get, 9), tie(9, 2));
    assert_eq!(builder.add(base, "/x/{+rest}", Method::Get, 9), tie(9, 3));
    assert_eq!(builder.add(base, "/x/{a}/y", Method::Post, 4), Ok(()));
    assert_eq!(builder.add(base, "/x", Method::Other, 9), Err(RouteError::Method));
    // Another host is no tie.
    let other = builder.base(Some("b.example"), "/v1").unwrap();
    assert_eq!(builder.add(other, "/x/{a}/y", Method::Get, 5), Ok(()));
    assert_eq!(builder.subtree(other, 9), Err(RouteError::SubtreeTie { value: 9, other: 5 }));
    let raw = builder.base(Some("b.example"), "/v2").unwrap();
    assert_eq!(builder.subtree(raw, 6), Ok(()));
    assert_eq!(builder.subtree(raw, 9), Err(RouteError::SubtreeTie { value: 9, other: 6 }));
    assert_eq!(builder.add(raw, "/x", Method::Get, 9), Err(RouteError::SubtreeTie { value: 9, other: 6 }));
    assert_eq!(builder.base(Some("B.example"), "/"), Err(RouteError::Host));
    assert_eq!(builder.base(Some(""), "/"), Err(RouteError::Host));
}

#[test]
fn inside_a_longer_base_nothing_falls_back() {
    let mut builder = RouterBuilder::new();
    let raw = builder.base(None, "/").unwrap();
    builder.subtree(raw, 1).unwrap();
    let closed = builder.base(None, "/private").unwrap();
    builder.subtree(closed, 2).unwrap();
    let api = builder.base(None, "/api").unwrap();
    builder.add(api, "/orders/{id}", Method::Get, 3).unwrap();
    let corner = builder.base(None, "/api/orders/secret").unwrap();
    builder.subtree(corner, 4).unwrap();
    // A base without anything is closed as well.
    builder.base(None, "/api/empty").unwrap();
    let router = builder.build().unwrap();
    let find =
        |path: &str, method| found(router.find(b"h", path.as_bytes(), method), path).map(|(value, _)| value);
    assert_eq!(find("/", Method::Get), Some(1));
    assert_eq!(find("/anything/at/all", Method::Other), Some(1));
    for path in ["/private", "/private/", "/private/x", "/private//x"] {
        assert_eq!(find(path, Method::Get), Some(2), "{path}");
    }
    assert_eq!(find("/privateer", Method::Get), Some(1));
    assert_eq!(find("/privat", Method::Get), Some(1));
    assert_eq!(find("/api/orders/5", Method::Get), Some(3));
    assert_eq!(find("/api/orders/secret", Method::Get), Some(4));
    assert_eq!(find("/api/orders/secrets", Method::Get), Some(3));
    // Unknown inside `/api`: neither the raw `/` nor `{id}` answers.
    for path in ["/api", "/api/", "/api/nothing", "/api/orders/5/x", "/api/empty", "/api/empty/x"] {
        assert_eq!(router.find(b"h", path.as_bytes(), Method::Get), Lookup::NotFound, "{path}");
    }
    assert!(matches!(router.find(b"h", b"/api/orders/5", Method::Post), Lookup::MethodNotAllowed { .. }));
    assert_eq!(router.find(b"h", b"*", Method::Options), Lookup::NotFound);
}

#[test]
fn hosts_have_trees_of_their_own_and_those_of_any_host() {
    let mut builder = RouterBuilder::new();
    let shop = builder.base(Some("shop.example"), "/").unwrap();
    builder.subtree(shop, 1).unwrap();
    let private = builder.base(None, "/private").unwrap();
    builder.subtree(private, 2).unwrap();
    let any_v1 = builder.base(None, "/v1").unwrap();
    builder.add(any_v1, "/a", Method::Get, 3).unwrap();
    builder.add(any_v1, "/b", Method::Get, 4).unwrap();
    let api_v1 = builder.base(Some("api.example"), "/v1").unwrap();
    builder.add(api_v1, "/a", Method::Get, 5).unwrap();
    let router = builder.build().unwrap();
    assert_eq!(value(&router, "shop.example", "/x"), Some(1));
    assert_eq!(value(&router, "shop.example", "/private/x"), Some(2), "longer base, though of any host");
    assert_eq!(value(&router, "shop.example", "/v1/a"), Some(3));
    assert_eq!(value(&router, "shop.example", "/v1/c"), None);
    assert_eq!(value(&router, "api.example", "/v1/a"), Some(5));
    assert_eq!(value(&router, "api.example", "/v1/b"), None, "the host's own base hides the other");
    assert_eq!(value(&router, "other.example", "/v1/a"), Some(3));
    assert_eq!(value(&router, "other.example", "/x"), None);
    assert_eq!(router.find(b"other.example", b"/x", Method::Get), Lookup::NotFound);

    let mut builder = RouterBuilder::new();
    let shop = builder.base(Some("shop.example"), "/").unwrap();
    builder.subtree(shop, 1).unwrap();
    let router = builder.build().unwrap();
    assert_eq!(router.find(b"other.example", b"/x", Method::Get), Lookup::HostUnknown);
    assert_eq!(router.find(b"", b"/x", Method::Get), Lookup::HostUnknown);
    assert_eq!(Router::default().find(b"h", b"/", Method::Get), Lookup::HostUnknown);
}

#[test]
fn templates_that_could_make_lookups_slow_are_refused() {
    let mut builder = RouterBuilder::new();
    let base = builder.base(None, "/").unwrap();
    // Every combination of `a` and a parameter over twelve segments: a path of `a`s could visit them all.
    for bits in 0..1 << 12 {
        let template: String = (0..12)
            .map(|i| if bits >> i & 1 == 0 { "/a".to_string() } else { format!("/{{p{i}}}") })
            .collect();
        builder.add(base, &template, Method::Get, bits).unwrap();
    }
    assert!(
        matches!(builder.build(), Err(RouteError::Ambiguous { value: 0, visits }) if visits > VISITS_MAX)
    );

    // One choice after another.
    let mut builder = RouterBuilder::new();
    let base = builder.base(None, "/").unwrap();
    for depth in 0..70 {
        builder.add(base, &format!("{}/{{p}}", "/a".repeat(depth)), Method::Get, depth as u32).unwrap();
    }
    assert!(matches!(builder.build(), Err(RouteError::TooDeep { choices: 70, .. })));
}

#[test]
fn fifty_thousand_routes_stay_shallow() {
    let mut builder = RouterBuilder::new();
    let base = builder.base(None, "/").unwrap();
    for value in 0..50_000u32 {
        let (service, kind) = (value / 50, value % 5);
        let resource = value % 50 / 5;
        let tail = ["", "/{id}", "/{id}/items", "/{id}/items/{item}", "/latest"][kind as usize];
        builder.add(base, &format!("/s{service}/r{resource}{tail}"), Method::Get, value).unwrap();
    }
    let router = builder.build().unwrap();
    assert!(router.visits_max() < 20, "{}", router.visits_max());
    assert!(router.bytes() < 5 << 20, "{}", router.bytes());
    assert_eq!(get(&router, "/s999/r9/x/items/y"), Some((49_998, vec!["x".into(), "y".into()])));
    assert_eq!(get(&router, "/s0/r0"), Some((0, vec![])));
}

#[test]
fn a_path_longer_than_spans_is_not_found() {
    let router = router(&["/{+all}"]);
    let path = format!("/{}", "x".repeat(u16::MAX as usize - 1));
    assert_eq!(get(&router, &path).unwrap().0, 0);
    assert_eq!(router.find(b"h", format!("{path}x").as_bytes(), Method::Get), Lookup::NotFound);
}

// The oracle: every template against the whole path, character by character, and the best by rule 3.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Byte(u8),
    Parameter { is_last_of_segment: bool },
    Tail,
}

fn steps(template: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for token in Template::parse(template).unwrap().tokens {
        match token {
            Token::Literal(text) => steps.extend(text.iter().map(|&byte| Step::Byte(byte))),
            Token::Parameter => steps.push(Step::Parameter { is_last_of_segment: true }),
            Token::Tail => steps.push(Step::Tail),
            Token::Pattern(pattern) => {
                for piece in &pattern.0 {
                    steps.push(Step::Parameter { is_last_of_segment: piece.is_empty() });
                    steps.extend(piece.iter().map(|&byte| Step::Byte(byte)));
                }
            }
        }
    }
    steps
}

/// Whether the steps match, the shortest parameters first.
fn matches(steps: &[Step], path: &[u8], at: usize, spans: &mut Vec<(usize, usize)>) -> bool {
    match steps.first() {
        None => at == path.len(),
        Some(Step::Byte(byte)) => path.get(at) == Some(byte) && matches(&steps[1..], path, at + 1, spans),
        Some(Step::Tail) => {
            spans.push((at, path.len()));
            at < path.len() && path[at] != b'/'
        }
        Some(Step::Parameter { .. }) => {
            let mut end = at;
            while end < path.len() && path[end] != b'/' {
                end += 1;
                let mark = spans.len();
                spans.push((at, end));
                if matches(&steps[1..], path, end, spans) {
                    return true;
                }
                spans.truncate(mark);
            }
            false
        }
    }
}

/// Which of two templates that match the same path is the better: at the first step where they differ.
fn precedence(a: &[Step], b: &[Step]) -> Ordering {
    let kind = |step: &Step| match step {
        Step::Byte(_) => 0,
        Step::Parameter { is_last_of_segment: false } => 1,
        Step::Parameter { is_last_of_segment: true } => 2,
        Step::Tail => 3,
    };
    // What a segment's rest says, from its first parameter on: bytes, and where parameters are.
    let rest = |steps: &[Step]| -> Vec<Step> {
        steps.iter().copied().take_while(|&step| step != Step::Byte(b'/')).collect()
    };
    let mut at = 0;
    loop {
        let (Some(first), Some(second)) = (a.get(at), b.get(at)) else {
            return Ordering::Equal;
        };
        if kind(first) != kind(second) {
            return kind(first).cmp(&kind(second));
        }
        if let Step::Parameter { is_last_of_segment: false } = first {
            let (rest_a, rest_b) = (rest(&a[at..]), rest(&b[at..]));
            let bytes = |rest: &[Step]| rest.iter().filter(|step| matches!(step, Step::Byte(_))).count();
            let pieces = |rest: &[Step]| -> Vec<Vec<u8>> {
                let mut pieces = Vec::new();
                for step in rest {
                    match step {
                        Step::Byte(byte) => {
                            pieces.last_mut().map(|piece: &mut Vec<u8>| piece.push(*byte)).unwrap()
                        }
                        _ => pieces.push(Vec::new()),
                    }
                }
                pieces
            };
            let order =
                bytes(&rest_b).cmp(&bytes(&rest_a)).then_with(|| pieces(&rest_a).cmp(&pieces(&rest_b)));
            if order != Ordering::Equal {
                return order;
            }
            at += rest_a.len();
        } else {
            at += 1;
        }
    }
}

fn segment() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "ab", "aa", "a-b", "ba"]),
        3 => Just("{}"),
        2 => prop::sample::select(vec!["a{}", "{}b", "{}-{}", "{}a", "a{}b", "{}ab", "a{}-{}", "{}a{}b"]),
    ]
}

fn template() -> impl Strategy<Value = String> {
    (prop::collection::vec(segment(), 1..5), 0u8..8).prop_map(|(segments, end)| {
        let mut text = segments.iter().fold(String::new(), |text, segment| text + "/" + segment);
        match end {
            0 => text.push('/'),
            1 => text.push_str("/{+}"),
            _ => {}
        }
        // Names make no difference, but must differ.
        let mut named = String::new();
        for (index, part) in text.split('}').enumerate() {
            if index > 0 {
                named.push_str(&format!("p{index}}}"));
            }
            named.push_str(part);
        }
        named
    })
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec!["a", "b", "ab", "aab", "a-b", "b-a-b", "-", "abab", ""]),
        1..6,
    )
    .prop_map(|segments| segments.iter().fold(String::new(), |text, segment| text + "/" + segment))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]
    #[test]
    fn lookups_equal_a_linear_scan(
        templates in prop::collection::vec(template(), 1..40),
        paths in prop::collection::vec(path(), 1..40),
    ) {
        let mut builder = RouterBuilder::new();
        let base = builder.base(None, "/").unwrap();
        let mut routes: Vec<(u32, Vec<Step>)> = Vec::new();
        for (value, template) in templates.iter().enumerate() {
            let steps = steps(template);
            match builder.add(base, template, Method::Get, value as u32) {
                Ok(()) => routes.push((value as u32, steps)),
                Err(RouteError::Tie { other, .. }) => {
                    prop_assert!(routes.iter().any(|(value, of)| *value == other && *of == steps));
                }
                Err(error) => prop_assert!(false, "{} for {}", error, template),
            }
        }
        let router = builder.build().unwrap();
        for path in paths {
            type Best<'a> = Option<(&'a (u32, Vec<Step>), Vec<(usize, usize)>)>;
            let mut best: Best = None;
            for route in &routes {
                let mut spans = Vec::new();
                if matches(&route.1, path.as_bytes(), 0, &mut spans)
                    && best.as_ref().is_none_or(|(of, _)| precedence(&route.1, &of.1) == Ordering::Less)
                {
                    best = Some((route, spans));
                }
            }
            let expected = best.map(|(route, spans)| {
                (route.0, spans.iter().map(|&(start, end)| path[start..end].to_string()).collect::<Vec<_>>())
            });
            prop_assert_eq!(get(&router, &path), expected, "{} in {:?}", path, templates);
        }
    }
}
