//! The metric families and their two text forms: Prometheus text 0.0.4 and OpenMetrics 1.0.
//!
//! For: turning sums into bytes that `promtool check metrics` and a Prometheus server accept. Not for: counting.
//! Called by `registry` on the control thread, once per scrape.

use super::metrics::{Exemplar, ExemplarId};
use super::request_id::push_hex;

/// `Content-Type` of [`Exposition::Text`].
pub const CONTENT_TYPE_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// `Content-Type` of [`Exposition::OpenMetrics`].
pub const CONTENT_TYPE_OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A form of exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus text 0.0.4.
    Text,
    /// OpenMetrics 1.0, with exemplars.
    OpenMetrics,
}

impl Exposition {
    /// What an `Accept` field asks for; text unless OpenMetrics 1.0 is preferred (RFC 9110 §12.5.1).
    pub fn of_accept(accept: &str) -> Exposition {
        let (mut open_metrics, mut text) = (0.0, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or("");
            let (mut quality, mut version) = (1.0f32, "");
            for part in parts {
                match part.split_once('=').map(|(name, value)| (name.trim(), value.trim().trim_matches('"')))
                {
                    Some((name, value)) if name.eq_ignore_ascii_case("q") => {
                        quality = value.parse().unwrap_or(0.0)
                    }
                    Some((name, value)) if name.eq_ignore_ascii_case("version") => version = value,
                    _ => {}
                }
            }
            if kind.eq_ignore_ascii_case("application/openmetrics-text") {
                if matches!(version, "" | "1.0.0") {
                    open_metrics = quality.max(open_metrics);
                }
            } else if kind.eq_ignore_ascii_case("text/plain") || kind == "text/*" || kind == "*/*" {
                text = quality.max(text);
            }
        }
        if open_metrics > 0.0 && open_metrics >= text { Exposition::OpenMetrics } else { Exposition::Text }
    }

    /// The `Content-Type` of this form.
    pub fn content_type(self) -> &'static str {
        match self {
            Exposition::Text => CONTENT_TYPE_TEXT,
            Exposition::OpenMetrics => CONTENT_TYPE_OPENMETRICS,
        }
    }
}

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
    /// Always 1; its labels are the message. Its name ends in `_info`.
    Info,
}

/// One metric family.
#[derive(Clone, Copy, Debug)]
pub struct FamilySpec {
    /// Which.
    pub family: Family,
    /// As in the text form.
    pub name: &'static str,
    /// What.
    pub kind: FamilyKind,
    /// One sentence for people.
    pub help: &'static str,
}

macro_rules! families {
    ($($variant:ident $kind:ident $name:literal $help:literal;)*) => {
        /// The families that Ringwall exposes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Family {
            $(#[doc = $help] $variant,)*
        }

        /// All families, in the order of exposition.
        pub const FAMILIES: &[FamilySpec] = &[
            $(FamilySpec { family: Family::$variant, name: $name, kind: FamilyKind::$kind, help: $help },)*
        ];
    };
}

families! {
    BuildInfo Info "ringwall_build_info" "The version that runs.";
    DriverInfo Info "ringwall_driver_info" "The event loop driver of each core.";
    ConfigGeneration Gauge "ringwall_config_generation" "Generation of the configuration in force.";
    ConfigLastReloadSuccess Gauge "ringwall_config_last_reload_success" "1 if the last reload was taken, 0 if it was refused.";
    ConfigSwitch Histogram "ringwall_config_switch_seconds" "How long a change of configuration held a core up.";
    ConfigSpread Gauge "ringwall_config_spread_seconds" "How long the last change of configuration took to reach every core.";
    ConfigsAlive Gauge "ringwall_config_alive" "Configurations in memory: the one in force, and those that exchanges still use.";
    ExceptionsExpired Gauge "ringwall_exceptions_expired" "Exceptions of the configuration whose date has passed.";
    Blocks Gauge "ringwall_blocks" "Addresses, identities, keys and operations that are blocked now.";
    Connections Gauge "ringwall_connections" "Open client connections.";
    Tunnels Gauge "ringwall_tunnels" "Open WebSockets.";
    ConnectionsMax Gauge "ringwall_connections_max" "Client connections that there may be in all.";
    AcceptsPaused Gauge "ringwall_accepts_paused" "1 while nobody is accepted because the node is short of memory or descriptors.";
    MemoryUsed Gauge "ringwall_memory_used_bytes" "Memory in use, of the process or its cgroup, whichever is nearer its bound.";
    MemoryMax Gauge "ringwall_memory_max_bytes" "The bound that ringwall_memory_used_bytes is measured against.";
    DescriptorsUsed Gauge "ringwall_descriptors_used" "Open file descriptors.";
    DescriptorsMax Gauge "ringwall_descriptors_max" "File descriptors that the process may have.";
    HttpRequests Counter "ringwall_http_requests_total" "Requests finished, by status; a status of 0 means that no answer was sent.";
    HttpRequestDuration Histogram "ringwall_http_request_duration_seconds" "First byte of the request to last byte of the answer.";
    Overhead Histogram "ringwall_overhead_seconds" "The part of a request's duration that was spent in Ringwall itself.";
    Refusals Counter "ringwall_refusals_total" "Requests and connections refused, or requests that an observed policy would have refused.";
    PolicyDecisions Counter "ringwall_policy_decisions_total" "Decisions of policies: admitted, refused, or unknown (observed past its bound).";
    LimitTableUsed Gauge "ringwall_limit_table_used_ratio" "Used part of a table of limits, of rates or of requests in flight: address for keys that anybody can mint, identity for the others, connection for addresses that connect.";
    TokenCache Counter "ringwall_token_cache_total" "Lookups in the cache of verified tokens.";
    TlsHandshakes Counter "ringwall_tls_handshakes_total" "TLS handshakes with clients: full, resumed or failed.";
    CertificateExpiry Gauge "ringwall_certificate_expiry_timestamp_seconds" "When the certificate that expires first on a listener does so.";
    ClientCrlExpiry Gauge "ringwall_client_crl_expiry_timestamp_seconds" "When the first revocation list for clients of a listener passes its next update; from then on it refuses.";
    UpstreamRequests Counter "ringwall_upstream_requests_total" "Requests sent to targets, by class of the answer's status; none means no answer.";
    UpstreamConnections Gauge "ringwall_upstream_connections" "Open connections to targets.";
    UpstreamUp Gauge "ringwall_upstream_up" "1 if a target is believed healthy.";
    UpstreamEjected Gauge "ringwall_upstream_ejected" "1 while a target is left out because it failed requests.";
    UpstreamInFlight Gauge "ringwall_upstream_in_flight" "Requests in flight to an upstream that has a bound on them.";
    UpstreamInFlightMax Gauge "ringwall_upstream_in_flight_max" "That bound, as it is now.";
    BreakerOpen Gauge "ringwall_breaker_open" "1 while an upstream is left alone because it fails too often.";
    UpstreamTargetsValid Gauge "ringwall_upstream_targets_valid" "1 if what the file of targets holds now is in force, 0 if it was refused.";
    Retries Counter "ringwall_retries_total" "Requests that were sent to an upstream again.";
    LogRecordsLost Counter "ringwall_log_records_lost_total" "Access records that found their ring full.";
    AuditRecordsLost Counter "ringwall_audit_records_lost_total" "Audit records that found their ring full.";
    LogRecords Counter "ringwall_log_records_total" "Access records written.";
    AuditRecords Counter "ringwall_audit_records_total" "Audit records written.";
    LogRecordsTruncated Counter "ringwall_log_records_truncated_total" "Records of which a string was cut at its bound.";
    LogWriteErrors Counter "ringwall_log_write_errors_total" "Failed writes or reopenings of a log.";
    LogBytes Counter "ringwall_log_bytes_total" "Bytes written to logs.";
    NoticesLost Counter "ringwall_log_notices_lost_total" "Notices to standard error that could not be written.";
    CountsLost Counter "ringwall_metrics_counts_lost_total" "Events that could not be counted under a name of their own.";
    NamesWithoutId Gauge "ringwall_metrics_names_without_id" "Configured names beyond the number of ids; they are counted together.";
    Panics Counter "ringwall_panics_total" "Panics caught; each ended one connection.";
    CoreBusy Gauge "ringwall_core_busy_ratio" "Part of the time since the scrape before in which a core worked.";
    CoreBusySeconds Counter "ringwall_core_busy_seconds_total" "Time in which a core worked.";
}

impl Family {
    /// Its name, kind and help.
    pub fn spec(self) -> &'static FamilySpec {
        &FAMILIES[self as usize]
    }
}

/// Samples that a part of Ringwall contributes to a scrape: gauges known only to their owner.
#[derive(Debug, Default)]
pub struct Samples {
    pub(super) list: Vec<(Family, String, f64)>,
}

impl Samples {
    /// One sample. Label names must be of those that `conventions` lists; values are escaped here.
    pub fn push(&mut self, family: Family, labels: &[(&str, &str)], value: f64) {
        debug_assert!(family.spec().kind != FamilyKind::Histogram, "a histogram is more than one sample");
        self.list.push((family, label_text(labels), value));
    }
}

/// `a="b",c="d"`; a label without a value is left out, which is the same to Prometheus.
pub(super) fn label_text(labels: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        for character in value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    text
}

/// Writes families one after the other.
pub(super) struct Page {
    form: Exposition,
    out: String,
}

impl Page {
    pub(super) fn new(form: Exposition) -> Page {
        Page { form, out: String::with_capacity(64 << 10) }
    }

    /// HELP and TYPE, before the samples of a family.
    pub(super) fn head(&mut self, family: Family) {
        let spec = family.spec();
        let open = self.form == Exposition::OpenMetrics;
        // OpenMetrics: the family of `x_total` is `x`, of `x_info` is `x`.
        let name = match spec.kind {
            FamilyKind::Counter if open => spec.name.strip_suffix("_total").unwrap_or(spec.name),
            FamilyKind::Info if open => spec.name.strip_suffix("_info").unwrap_or(spec.name),
            _ => spec.name,
        };
        let kind = match spec.kind {
            FamilyKind::Counter => "counter",
            FamilyKind::Gauge => "gauge",
            FamilyKind::Histogram => "histogram",
            FamilyKind::Info if open => "info",
            FamilyKind::Info => "gauge",
        };
        for text in ["# HELP ", name, " ", spec.help, "\n# TYPE ", name, " ", kind, "\n"] {
            self.out.push_str(text);
        }
        if open && name.ends_with("_seconds") {
            for text in ["# UNIT ", name, " seconds\n"] {
                self.out.push_str(text);
            }
        }
    }

    /// One sample with a whole value.
    pub(super) fn whole(&mut self, family: Family, labels: &str, value: u64) {
        self.name(family.spec().name, "", labels, None);
        self.out.push_str(itoa::Buffer::new().format(value));
        self.out.push('\n');
    }

    /// One sample with a real value.
    pub(super) fn real(&mut self, family: Family, labels: &str, value: f64) {
        self.name(family.spec().name, "", labels, None);
        self.number(value);
        self.out.push('\n');
    }

    /// All samples of one histogram. `buckets` are not cumulative; there is one more of them than of `bounds_ns`.
    pub(super) fn histogram(
        &mut self,
        family: Family,
        labels: &str,
        bounds_ns: &[u64],
        buckets: &[u64],
        sum_ns: u64,
        exemplars: &[Exemplar],
    ) {
        let name = family.spec().name;
        let mut count = 0;
        for (at, bucket) in buckets.iter().enumerate() {
            count += bucket;
            // Prometheus ≥ 3 normalises `1` to `1.0`; OpenMetrics wants the latter. One form, one series.
            let bound = bounds_ns.get(at).map_or_else(|| "+Inf".to_owned(), |ns| bound_text(seconds(*ns)));
            self.name(name, "_bucket", labels, Some(&bound));
            self.out.push_str(itoa::Buffer::new().format(count));
            if self.form == Exposition::OpenMetrics
                && let Some(exemplar) =
                    exemplars.iter().filter(|one| one.bucket == at).max_by_key(|one| one.time_ms)
            {
                self.exemplar(exemplar);
            }
            self.out.push('\n');
        }
        self.name(name, "_sum", labels, None);
        self.number(sum_ns as f64 / 1e9);
        self.out.push('\n');
        self.name(name, "_count", labels, None);
        self.out.push_str(itoa::Buffer::new().format(count));
        self.out.push('\n');
    }

    /// The page; OpenMetrics ends with a mark of its own.
    pub(super) fn finish(mut self) -> String {
        if self.form == Exposition::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    fn name(&mut self, name: &str, suffix: &str, labels: &str, bound: Option<&str>) {
        self.out.push_str(name);
        self.out.push_str(suffix);
        if !labels.is_empty() || bound.is_some() {
            self.out.push('{');
            self.out.push_str(labels);
            if let Some(bound) = bound {
                let comma = if labels.is_empty() { "" } else { "," };
                for text in [comma, "le=\"", bound, "\""] {
                    self.out.push_str(text);
                }
            }
            self.out.push('}');
        }
        self.out.push(' ');
    }

    fn exemplar(&mut self, exemplar: &Exemplar) {
        match exemplar.id {
            ExemplarId::Trace(id) => {
                let mut hex = [0; 32];
                push_hex(&mut hex, &id);
                self.out.push_str(" # {trace_id=\"");
                self.out.extend(hex.iter().map(|byte| char::from(*byte)));
            }
            ExemplarId::Request(id) => {
                self.out.push_str(" # {request_id=\"");
                self.out.extend(id.format().iter().map(|byte| char::from(*byte)));
            }
        }
        self.out.push_str("\"} ");
        self.number(seconds(exemplar.value_ns));
        self.out.push(' ');
        self.out.push_str(&format!("{}.{:03}", exemplar.time_ms / 1000, exemplar.time_ms % 1000));
    }

    fn number(&mut self, value: f64) {
        if value.is_infinite() {
            self.out.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
        } else {
            // `{}` never uses an exponent and always goes round; NaN is spelled as both forms want it.
            self.out.push_str(&format!("{value}"));
        }
    }
}

/// Without an exponent and with a point: `0.000005`, `1.0`.
fn bound_text(bound: f64) -> String {
    let text = format!("{bound}");
    if text.contains('.') { text } else { text + ".0" }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_order_follow_the_rules() {
        for (at, spec) in FAMILIES.iter().enumerate() {
            assert_eq!(spec.family as usize, at);
            assert!(spec.name.starts_with("ringwall_"), "{}", spec.name);
            assert!(spec.help.ends_with('.') && !spec.help.contains(['\\', '\n']), "{}", spec.name);
            let suffix = match spec.kind {
                FamilyKind::Counter => "_total",
                FamilyKind::Info => "_info",
                FamilyKind::Histogram => "_seconds",
                FamilyKind::Gauge => "",
            };
            assert!(spec.name.ends_with(suffix), "{}", spec.name);
            assert_eq!(FAMILIES.iter().filter(|other| other.name == spec.name).count(), 1, "{}", spec.name);
        }
    }

    #[test]
    fn label_values_are_escaped_and_empty_ones_left_out() {
        let labels = label_text(&[("api", "a\"b\\c\nd"), ("operation", ""), ("core", "0")]);
        assert_eq!(labels, r#"api="a\"b\\c\nd",core="0""#);
    }

    #[test]
    fn accept_chooses_the_form() {
        use Exposition::{OpenMetrics, Text};
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, form) in [
            ("", Text),
            ("*/*", Text),
            ("text/plain", Text),
            (prometheus, OpenMetrics),
            ("application/openmetrics-text; version=1.0.0", OpenMetrics),
            ("Application/OpenMetrics-Text; Version=\"1.0.0\"; Q=0.9, text/plain; q=0.3", OpenMetrics),
            ("application/openmetrics-text; version=2.0.0", Text),
            ("application/openmetrics-text;q=0", Text),
            ("application/openmetrics-text;q=0.2, text/plain;q=0.9", Text),
            ("application/openmetrics-text;q=x", Text),
        ] {
            assert_eq!(Exposition::of_accept(accept), form, "{accept}");
        }
    }

    #[test]
    fn a_histogram_is_cumulative_and_carries_its_exemplar() {
        let exemplar = Exemplar {
            operation: 1,
            bucket: 1,
            time_ms: 1_500,
            value_ns: 1_200_000_000,
            id: ExemplarId::Trace([0xab; 16]),
        };
        let mut page = Page::new(Exposition::OpenMetrics);
        page.histogram(
            Family::Overhead,
            "api=\"a\"",
            &[1_000_000_000, 2_500_000_000],
            &[1, 2, 3],
            7,
            &[exemplar],
        );
        assert_eq!(
            page.finish(),
            "ringwall_overhead_seconds_bucket{api=\"a\",le=\"1.0\"} 1\n\
             ringwall_overhead_seconds_bucket{api=\"a\",le=\"2.5\"} 3 # {trace_id=\"abababababababababababababababab\"} 1.2 1.500\n\
             ringwall_overhead_seconds_bucket{api=\"a\",le=\"+Inf\"} 6\n\
             ringwall_overhead_seconds_sum{api=\"a\"} 0.000000007\n\
             ringwall_overhead_seconds_count{api=\"a\"} 6\n# EOF\n"
        );
    }
}
