//! Converts a finished request to a log record: the fields of the JSON access log, under the names of OpenTelemetry's semantic
//! conventions where they exist, else under `outrigger.*`. docs/access-logs.md lists them.
//!
//! The entry is converted by way of JSON, so that a new field of the access log is exported too.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use opentelemetry_proto::transform::common::tonic::Attributes;
use opentelemetry_semantic_conventions::attribute as key;
use outrigger_core::record::{Protocol, RequestRecord};
use serde_json::{Map, Value};

use crate::telemetry::access_log::entry::Entry;
use crate::telemetry::attributes;
use crate::telemetry::outcome::{self, Outcome, Side};

/// The name of the event that each record is (Logs data model, "EventName").
const EVENT: &str = "outrigger.access_log";

/// Returns the log record of a request that is exported at `now`.
pub(super) fn log_record(record: &RequestRecord, now: SystemTime) -> LogRecord {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(Entry::of(record)) else {
        return LogRecord::default();
    };
    fields.remove("time");
    // As of a server span, so that an error of the client is none.
    let error_type = Outcome::of_request(record).error_type(Side::Server);
    let (severity, severity_text) = match error_type {
        Some(_) => (SeverityNumber::Error, "ERROR"),
        None => (SeverityNumber::Info, "INFO"),
    };
    let (trace_id, span_id) = (bytes(fields.remove("trace_id")), bytes(fields.remove("span_id")));
    let body = Some(AnyValue { value: Some(any_value::Value::StringValue(summary(&fields))) });
    let mut attributes = attributes(fields, record);
    attributes.extend(error_type.map(|error| KeyValue::new(key::ERROR_TYPE, error)));
    let sampled = record.trace.is_some_and(|trace| trace.sampled);
    LogRecord {
        time_unix_nano: nanoseconds(record.started),
        observed_time_unix_nano: nanoseconds(now),
        severity_number: severity.into(),
        severity_text: severity_text.to_owned(),
        body,
        trace_id,
        span_id,
        // W3C trace flags, of which only "sampled" is known.
        flags: u32::from(sampled),
        event_name: EVENT.to_owned(),
        attributes: Attributes::from(attributes).0,
        ..LogRecord::default()
    }
}

/// Returns what a person reads first: method, URL, status and flag.
fn summary(fields: &Map<String, Value>) -> String {
    let text = |field: &str| fields.get(field).and_then(Value::as_str);
    let what = text("method").or(text("protocol")).unwrap_or_default();
    let target = text("authority").or(text("destination")).unwrap_or_default();
    let mut summary = format!("{what} {target}{}", text("path").unwrap_or_default());
    if let Some(status) = fields.get("status") {
        summary = format!("{summary} {status}");
    }
    if let Some(flag) = text("flag") {
        summary = format!("{summary} {flag}");
    }
    summary
}

fn attributes(fields: Map<String, Value>, record: &RequestRecord) -> Vec<KeyValue> {
    let protocol = record.protocol;
    let mut all = Vec::with_capacity(fields.len() + 6);
    if outcome::is_grpc(record) {
        let path = record.text.as_ref().map_or("", |text| &text.path);
        attributes::grpc(path, record.grpc_status, &mut all);
    }
    for (field, value) in fields {
        match (field.as_str(), &value) {
            ("method", Value::String(method)) => attributes::method(method, &mut all),
            ("authority", Value::String(authority)) => attributes::server(authority, &mut all),
            ("path", Value::String(target)) => {
                let (path, query) = attributes::path_and_query(target);
                all.push(KeyValue::new(key::URL_PATH, path.to_owned()));
                all.extend(query.map(|query| KeyValue::new(key::URL_QUERY, query.into_owned())));
            }
            ("protocol", Value::String(_)) => add_protocol(protocol, &mut all),
            ("client", Value::String(client)) => {
                if let Ok(client) = client.parse::<SocketAddr>() {
                    all.push(KeyValue::new(key::CLIENT_ADDRESS, client.ip().to_string()));
                    all.push(KeyValue::new(key::CLIENT_PORT, i64::from(client.port())));
                }
            }
            // With the call's other attributes.
            ("grpc_status", _) => {}
            (field, _) => all.extend(attribute(name(field, protocol), value)),
        }
    }
    all
}

fn name(field: &str, protocol: Protocol) -> String {
    let known = match field {
        "status" => key::HTTP_RESPONSE_STATUS_CODE,
        "bytes_received" if protocol != Protocol::Tcp => key::HTTP_REQUEST_BODY_SIZE,
        "bytes_sent" if protocol != Protocol::Tcp => key::HTTP_RESPONSE_BODY_SIZE,
        "user_agent" => key::USER_AGENT_ORIGINAL,
        "source" => "outrigger.source.spiffe_id",
        "peer" => "outrigger.destination.spiffe_id",
        "destination" => "outrigger.destination.service",
        "flag" => "outrigger.response_flag",
        _ => return format!("outrigger.{field}"),
    };
    known.to_owned()
}

fn attribute(name: String, value: Value) -> Option<KeyValue> {
    match value {
        Value::String(text) => Some(KeyValue::new(name, text)),
        Value::Bool(value) => Some(KeyValue::new(name, value)),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Some(KeyValue::new(name, number)),
            None => Some(KeyValue::new(name, number.as_f64()?)),
        },
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn add_protocol(protocol: Protocol, attributes: &mut Vec<KeyValue>) {
    let version = match protocol {
        Protocol::Tcp => return attributes.push(KeyValue::new(key::NETWORK_TRANSPORT, "tcp")),
        Protocol::Http10 => "1.0",
        Protocol::Http11 => "1.1",
        Protocol::Http2 | Protocol::Grpc => "2",
    };
    attributes.push(KeyValue::new(key::NETWORK_PROTOCOL_NAME, "http"));
    attributes.push(KeyValue::new(key::NETWORK_PROTOCOL_VERSION, version));
}

/// Returns the bytes of an ID in hexadecimal digits.
fn bytes(id: Option<Value>) -> Vec<u8> {
    let Some(Value::String(digits)) = id else { return Vec::new() };
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.as_bytes().chunks(2).map(pair).collect::<Option<_>>().unwrap_or_default()
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
