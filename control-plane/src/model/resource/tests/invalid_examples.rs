//! Gateway API 1.6 publishes invalid examples, in the tests of its CRDs and in `hack/invalid-examples`. For each rule that they
//! break, a resource that breaks it is refused, at the field in error.

use super::super::testing::check_table;

const HTTP: &str =
    "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a}, spec: {@}}";
const GRPC: &str =
    "{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: a}, spec: {@}}";

/// Checks that `template` is refused with each of these in place of `@`, with the first error at the given path.
fn check_refused(template: &str, refused: &[(&str, &str)]) {
    let rows: Vec<_> = refused.iter().map(|(part, path)| (*part, *path, "")).collect();
    check_table(template, &[], &rows);
}

/// The same, with `place` substituted for the `@` of the template, and each part for the `@` in `place`.
fn check_refused_in(template: &str, place: &str, refused: &[(&str, &str)]) {
    check_refused(&template.replace('@', place), refused);
}

#[test]
fn paths_that_are_not_absolute_or_not_normalized() {
    let value = "spec.rules[0].matches[0].path.value";
    check_refused_in(
        HTTP,
        "rules: [{matches: [{path: {@}}]}]",
        &[
            ("type: PathPrefix, value: shop", value),
            ("type: PathPrefix, value: /shop/.", value),
            ("type: PathPrefix, value: /shop/..", value),
            ("type: Exact, value: /shop/./cart", value),
            ("type: Exact, value: /shop/../cart", value),
            ("type: Exact, value: /shop//cart", value),
            ("type: Exact, value: /shop%2Fcart", value),
            ("type: Exact, value: '/shop#cart'", value),
            ("type: PathPrefix, value: '/{}'", value),
            ("type: PathPrefix, value: '/shop[1]/cart'", value),
            ("type: Exact, value: /`", value),
            ("type: Glob, value: /shop", "spec.rules[0].matches[0].path.type"),
        ],
    );
    check_table(
        &HTTP.replace('@', "rules: [{matches: [{path: {@}}]}]"),
        &[
            "type: RegularExpression, value: /shop/./cart",
            "type: Exact, value: \"/shop/o'brien/x-y/a@b/%0D\"",
        ],
        &[],
    );
}

#[test]
fn invalid_or_duplicate_conditions() {
    let at = "spec.rules[0].matches[0]";
    check_refused_in(
        HTTP,
        "rules: [{matches: [{@}]}]",
        &[
            ("method: FETCH", &format!("{at}.method")),
            ("headers: [{name: a/b, value: c}]", &format!("{at}.headers[0].name")),
            ("headers: [{name: a, value: b}, {name: a, value: b}]", &format!("{at}.headers")),
            ("queryParams: [{name: a, value: b}, {name: a, value: b}]", &format!("{at}.queryParams")),
        ],
    );
    check_refused(HTTP, &[("hostnames: ['https://shop>']", "spec.hostnames[0]")]);
}

#[test]
fn invalid_references_to_backends() {
    let at = "spec.rules[0].backendRefs[0]";
    check_refused_in(
        HTTP,
        "rules: [{backendRefs: [{name: cart, @}]}]",
        &[
            ("", at),
            ("group: '', kind: Service", at),
            ("group: '?', port: 80", &format!("{at}.group")),
            ("kind: '?', port: 80", &format!("{at}.kind")),
            ("port: 700000", &format!("{at}.port")),
        ],
    );
}

#[test]
fn filters_whose_field_does_not_fit_their_type() {
    let at = "spec.rules[0].filters[0]";
    let rows = |types: &[&str]| {
        for of in types {
            let other = if *of == "RequestMirror" {
                "requestHeaderModifier: {}"
            } else {
                "requestMirror: {backendRef: {name: b, port: 1}}"
            };
            let (bare, mixed) = (format!("type: {of}"), format!("type: {of}, {other}"));
            for template in [HTTP, GRPC] {
                if template == HTTP || !["RequestRedirect", "URLRewrite", "CORS"].contains(of) {
                    check_refused_in(template, "rules: [{filters: [{@}]}]", &[(&bare, at), (&mixed, at)]);
                }
            }
        }
    };
    rows(&[
        "RequestHeaderModifier",
        "ResponseHeaderModifier",
        "RequestMirror",
        "RequestRedirect",
        "URLRewrite",
        "CORS",
        "ExtensionRef",
    ]);
    check_refused_in(
        HTTP,
        "rules: [{filters: [{@}]}]",
        &[
            ("type: RequestHeaderModifier, requestRedirect: {port: 8443}", at),
            (
                "type: RequestHeaderModifier, requestHeaderModifier: {}, requestMirror: {backendRef: {name: b, port: 1}}",
                at,
            ),
            ("type: ExternalAuth", at),
            ("type: ExternalAuth, externalAuth: {}", &format!("{at}.externalAuth")),
            (
                "type: ExternalAuth, externalAuth: {protocol: GRPC, backendRef: {name: b, port: 1}}",
                &format!("{at}.externalAuth"),
            ),
            (
                "type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: b, port: 1}, http: {path: '/{}'}}",
                &format!("{at}.externalAuth.http.path"),
            ),
        ],
    );
}

#[test]
fn header_changes_with_duplicate_names_or_line_breaks() {
    let at = "spec.rules[0].filters[0].responseHeaderModifier";
    check_refused_in(
        HTTP,
        "rules: [{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {@}}]}]",
        &[
            ("remove: [x-a, x-a]", &format!("{at}.remove")),
            ("add: [{name: x-a, value: \"b\\nc\\r\\nd\"}]", &format!("{at}.add[0].value")),
            ("set: [{name: x-a, value: b}, {name: x-a, value: c}]", &format!("{at}.set")),
        ],
    );
}

const REWRITE: &str =
    "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}";
const REDIRECT: &str =
    "{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}";
const CORS: &str = "{type: CORS, cors: {allowOrigins: ['https://shop.example']}}";

#[test]
fn filters_that_are_repeated_or_exclude_each_other() {
    let request = "{type: RequestHeaderModifier, requestHeaderModifier: {remove: [x-a]}}";
    let response = "{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x-a]}}";
    let mirror = "{type: RequestMirror, requestMirror: {backendRef: {name: b, port: 1}}}";
    for repeated in [REWRITE, REDIRECT, CORS, request, response] {
        let filters = format!("{repeated}, {mirror}, {repeated}");
        check_refused_in(HTTP, "rules: [{filters: [@]}]", &[(&filters, "spec.rules[0].filters")]);
        let backend = "rules: [{backendRefs: [{name: b, port: 1, filters: [@]}]}]";
        check_refused_in(HTTP, backend, &[(&filters, "spec.rules[0].backendRefs[0].filters")]);
    }
    for repeated in [request, response] {
        let filters = format!("{repeated}, {mirror}, {repeated}");
        check_refused_in(GRPC, "rules: [{filters: [@]}]", &[(&filters, "spec.rules[0].filters")]);
    }
    let both = format!("{REWRITE}, {REDIRECT}");
    check_refused_in(HTTP, "rules: [{filters: [@]}]", &[(&both, "spec.rules[0].filters")]);
    let with_backend = format!("filters: [{REDIRECT}], backendRefs: [{{name: b, port: 1}}]");
    check_refused_in(HTTP, "rules: [{@}]", &[(&with_backend, "spec.rules[0].filters")]);
}

#[test]
fn a_prefix_is_replaced_only_if_exactly_one_is_matched() {
    let prefix = "{path: {type: PathPrefix, value: /old}}";
    let expression = "{path: {type: RegularExpression, value: /old}}";
    for filter in [REWRITE, REDIRECT] {
        for matches in [format!("{prefix}, {prefix}"), expression.into(), String::new()] {
            let rule = format!("matches: [{matches}], filters: [{filter}]");
            check_refused_in(HTTP, "rules: [{@}]", &[(&rule, "spec.rules[0].filters")]);
            let on_backend =
                format!("matches: [{matches}], backendRefs: [{{name: b, port: 1, filters: [{filter}]}}]");
            check_refused_in(HTTP, "rules: [{@}]", &[(&on_backend, "spec.rules[0].backendRefs[0].filters")]);
        }
        let accepted = [format!("matches: [{prefix}], filters: [{filter}]"), format!("filters: [{filter}]")];
        check_table(&HTTP.replace('@', "rules: [{@}]"), &accepted.each_ref().map(String::as_str), &[]);
    }
}

#[test]
fn path_modifiers_whose_field_does_not_fit_their_type() {
    let at = "spec.rules[0].filters[0].requestRedirect";
    let path = format!("{at}.path");
    check_refused_in(
        HTTP,
        "rules: [{filters: [{type: RequestRedirect, requestRedirect: {@}}]}]",
        &[
            ("path: {type: ReplaceFullPath}", &path),
            ("path: {type: ReplacePrefixMatch}", &path),
            ("path: {type: ReplacePrefixMatch, replaceFullPath: /a}", &path),
            ("path: {type: ReplaceFullPath, replacePrefixMatch: /a}", &path),
            ("hostname: '*.shop.example'", &format!("{at}.hostname")),
        ],
    );
}

#[test]
fn invalid_origins_and_methods_of_cors() {
    let at = "spec.rules[0].filters[0].cors";
    let place = "rules: [{filters: [{type: CORS, cors: {@}}]}]";
    for origin in [
        "shop.example",
        "https://shop.example:port",
        "shop/https://shop.example",
        "https://shop.example:700000",
        "https://shop.example:",
        "https://shop.example/cart",
        "ftp://shop.example",
        "https://*shop.example",
        "https://shop*.example",
        "https://shop.*.example",
        "https://*shop",
        "https://shop*",
        "https://*.shop.*.example",
    ] {
        let row = format!("allowOrigins: ['https://a.example', '{origin}']");
        check_refused_in(HTTP, place, &[(&row, &format!("{at}.allowOrigins[1]"))]);
    }
    check_refused_in(
        HTTP,
        place,
        &[
            ("allowOrigins: ['*', 'https://a.example']", &format!("{at}.allowOrigins")),
            ("allowMethods: ['*', GET]", &format!("{at}.allowMethods")),
            ("allowMethods: [FETCH]", &format!("{at}.allowMethods[0]")),
        ],
    );
    check_table(
        &HTTP.replace('@', place),
        &["allowOrigins: ['*']", "allowOrigins: ['http://*.example']", "allowMethods: [GET, PUT]"],
        &[],
    );
}

#[test]
fn parent_references_that_are_not_distinct() {
    let b = "name: b";
    for parents in [
        format!("{{{b}}}, {{{b}}}"),
        format!("{{{b}}}, {{{b}, sectionName: x}}"),
        format!("{{{b}, sectionName: x}}, {{{b}, sectionName: x}}"),
        format!("{{{b}}}, {{{b}, port: 80}}"),
        format!("{{{b}}}, {{{b}, port: 80, sectionName: x}}"),
        format!("{{{b}, port: 80}}, {{{b}, port: 80}}"),
        format!("{{{b}, port: 80}}, {{{b}, sectionName: x}}"),
        format!("{{{b}, sectionName: x}}, {{{b}, port: 80, sectionName: y}}"),
    ] {
        for template in [HTTP, GRPC] {
            check_refused_in(template, "parentRefs: [@]", &[(&parents, "spec.parentRefs")]);
        }
    }
    let accepted = [
        format!("{{{b}, sectionName: x}}, {{{b}, sectionName: y}}"),
        format!("{{{b}, port: 80}}, {{{b}, port: 81}}"),
        format!("{{{b}, port: 80, sectionName: x}}, {{{b}, port: 80, sectionName: y}}"),
        format!("{{{b}}}, {{name: c}}"),
        format!("{{{b}, namespace: n}}, {{{b}}}"),
        format!("{{{b}}}, {{{b}, namespace: n}}"),
    ];
    check_table(&HTTP.replace('@', "parentRefs: [@]"), &accepted.each_ref().map(String::as_str), &[]);
}

#[test]
fn invalid_or_contradictory_timeouts() {
    let request = "spec.rules[0].timeouts.request";
    check_refused_in(
        HTTP,
        "rules: [{timeouts: {@}}]",
        &[
            ("request: 200us", request),
            ("request: 700ns", request),
            ("request: 2d", request),
            ("request: 2.5s", request),
            ("request: 300ms, backendRequest: 2s", "spec.rules[0].timeouts.backendRequest"),
        ],
    );
}

#[test]
fn rules_with_duplicate_names_or_too_many_matches() {
    for template in [HTTP, GRPC] {
        check_refused_in(
            template,
            "rules: [@]",
            &[
                ("{name: a}, {name: a}, {name: b}, {name: b}", "spec.rules"),
                ("{name: a}, {name: b}, {}, {name: a}", "spec.rules"),
            ],
        );
        let of = |rules: usize, matches: usize| {
            let rule = format!("{{matches: [{}]}}", vec!["{}"; matches].join(", "));
            template.replace('@', &format!("rules: [{}]", vec![rule; rules].join(", ")))
        };
        check_table(&of(7, 20), &[], &[("", "spec.rules", "")]);
        check_table(&of(2, 64), &[""], &[]);
    }
}

#[test]
fn invalid_fractions_of_a_mirror() {
    let at = "spec.rules[0].filters[0].requestMirror";
    for template in [HTTP, GRPC] {
        check_refused_in(
            template,
            "rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: b, port: 1}, @}}]}]",
            &[
                ("percent: 20, fraction: {numerator: 1, denominator: 5}", at),
                ("fraction: {numerator: 101}", &format!("{at}.fraction")),
                ("fraction: {numerator: 1, denominator: 0}", &format!("{at}.fraction.denominator")),
                ("fraction: {numerator: -1}", &format!("{at}.fraction.numerator")),
            ],
        );
    }
}

#[test]
fn grpc_methods_with_invalid_names() {
    let at = "spec.rules[0].matches[0].method";
    check_refused_in(
        GRPC,
        "rules: [{matches: [{method: {@}}]}]",
        &[
            ("", at),
            ("type: Exact", at),
            ("service: 'shop\\.(Cart|Stock)', method: 'Add|Take'", &format!("{at}.service")),
            ("type: Exact, service: 'shop\\.(Cart|Stock)'", &format!("{at}.service")),
            ("service: shop.Cart, method: 'Add.*'", &format!("{at}.method")),
        ],
    );
    check_table(
        &GRPC.replace('@', "rules: [{matches: [{method: {@}}]}]"),
        &[
            "type: Exact, service: .shop.v1.Cart",
            "service: Shop.Cart, method: Add_1",
            "type: RegularExpression, service: 'shop\\.(Cart|Stock)', method: 'Add|Take'",
        ],
        &[],
    );
}

#[test]
fn incomplete_reference_grants() {
    check_refused_in(
        "{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: a}, spec: {@}}",
        "@",
        &[
            ("to: [{group: '', kind: Service}]", "spec"),
            ("from: [{group: '', kind: Service, namespace: b}]", "spec"),
            (
                "from: [{group: gateway.networking.k8s.io, kind: HTTPRoute}], to: [{group: '', kind: Service}]",
                "spec.from[0]",
            ),
        ],
    );
}

/// Limits of the CRDs that no published example holds.
#[test]
fn limits_without_a_published_example() {
    // 251 bytes after the wildcard, and one label more.
    let longest = format!("hostnames: ['*.{}']", ["a"; 126].join("."));
    let long = longest.replacen("*.", "*.a.", 1);
    check_table(HTTP, &[&longest], &[(&long, "spec.hostnames[0]", "not a host name")]);
    check_refused(
        HTTP,
        &[
            ("rules: [{matches: [{path: [Exact, /a]}]}]", "spec.rules[0].matches[0].path"),
            ("rules: [[]]", "spec.rules[0]"),
        ],
    );
    let tcp = "{apiVersion: gateway.networking.k8s.io/v1, kind: TCPRoute, metadata: {name: a},
        spec: {rules: [{backendRefs: [{name: b, port: 1, @}]}]}}";
    check_refused(tcp, &[("filters: []", "spec.rules[0].backendRefs[0].filters")]);
    // Of a GRPCRoute, only explicit matches count.
    let rules =
        format!("rules: [{{matches: [{m}]}}, {{matches: [{m}]}}, {{}}]", m = vec!["{}"; 64].join(", "));
    check_table(GRPC, &[&rules], &[]);
}
