//! Log records: exports the access log by OTLP, beside the lines that `--access-log` writes or instead of them.
//!
//! Workers send every finished request into a bounded queue. [`run`], on the control thread, converts them and exports them in
//! batches. While a collector is unreachable the queue fills and workers drop records, which are counted; nothing else is
//! affected.

mod convert;

use std::time::SystemTime;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;

use self::convert::log_record;
use super::local_identity::LocalIdentity;
use super::otlp::batches::Batches;
use super::otlp::exporter::Exporter;
use super::otlp::exports::Exports;
use super::otlp::resource::{Workload, scope};

/// Exports until every sender of the queue is dropped and the last batch is sent.
pub(crate) async fn run(
    mut batches: Batches,
    exporter: Exporter,
    workload: Workload,
    identity: LocalIdentity,
) {
    let mut exports = Exports::new(exporter);
    let convert = |record: &_, records: &mut Vec<_>| records.push(log_record(record, SystemTime::now()));
    while let Some(records) = batches.next(convert).await {
        let count = records.len() as u64;
        let request = request(records, workload.resource(identity.get().as_ref()));
        exports.start(request.encode_to_vec().into(), count).await;
    }
    exports.finish().await;
}

fn request(log_records: Vec<LogRecord>, resource: Resource) -> ExportLogsServiceRequest {
    let scope_logs = vec![ScopeLogs { scope: Some(scope()), log_records, ..ScopeLogs::default() }];
    let resource_logs = ResourceLogs { resource: Some(resource), scope_logs, ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![resource_logs] }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::telemetry::access_log::entry::tests::record;
    use crate::telemetry::losses::Losses;
    use crate::telemetry::otlp::environment::Environment;
    use crate::telemetry::otlp::settings::Settings;
    use crate::telemetry::otlp::testing::Collector;

    #[tokio::test]
    async fn the_access_log_reaches_a_collector_with_its_resource() {
        let collector = Collector::start([]).await;
        let endpoint = format!("http://{}", collector.authority);
        let environment = Environment::new([("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT".to_owned(), endpoint)]);
        let settings = Settings::read(&environment, None, Some("web"), "web-1").unwrap();
        let (destination, batching) = settings.logs.unwrap();
        let losses = Arc::new(Losses::default());
        let (sender, batches) = batching.queue();
        let requests = 3;
        (0..requests).for_each(|_| sender.try_send(Arc::new(record())).unwrap());
        drop(sender);
        let exporter = Exporter::new(destination, Arc::clone(&losses));
        run(batches, exporter, settings.workload, LocalIdentity::new(|| None)).await;
        assert_eq!((losses.counts().log_records_exported, losses.counts().log_records_lost), (requests, 0));
        let [arrived] = &collector.arrived()[..] else { panic!("one batch") };
        let request = ExportLogsServiceRequest::decode(arrived.message.clone()).unwrap();
        let [logs] = &request.resource_logs[..] else { panic!("{request:?}") };
        let attributes = &logs.resource.as_ref().unwrap().attributes;
        assert!(attributes.iter().any(|attribute| attribute.key == "service.name"));
        let [scope] = &logs.scope_logs[..] else { panic!("{logs:?}") };
        assert_eq!(scope.scope.as_ref().unwrap().name, "outrigger");
        assert_eq!(scope.log_records.len(), 3);
        assert!(
            scope.log_records.iter().all(|record| record.observed_time_unix_nano > record.time_unix_nano)
        );
    }
}
