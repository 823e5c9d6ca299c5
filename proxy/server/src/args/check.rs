//! Validation that involves more than one flag.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::{Args, ServicePort};
use crate::error::Error;

impl Args {
    /// Checks that every service has an inbound address, and that no address, service or label is given twice.
    pub fn check(&self) -> Result<(), Error> {
        for service in &self.service {
            if service.listen.is_none() && self.transparent_inbound.is_none() {
                return Err(service_problem(service, "needs `,listen=IP:PORT`, or --transparent-inbound"));
            }
        }
        if let (Some(server), true) = (self.dns_upstream.first(), self.dns.is_empty()) {
            let problem = "there is no DNS answerer (--dns) that would ask it".to_owned();
            return Err(Error::Flag { flag: "--dns-upstream", value: server.to_string(), problem });
        }
        let mut taken = HashSet::new();
        let mut take = |flag, address: SocketAddr| {
            if address.port() == 0 || taken.insert(address) {
                return Ok(());
            }
            let problem = "another flag names the same address".to_owned();
            Err(Error::Flag { flag, value: address.to_string(), problem })
        };
        take("--admin", self.admin.get())?;
        self.metrics_listen.into_iter().try_for_each(|at| take("--metrics-listen", at))?;
        self.outbound.into_iter().try_for_each(|at| take("--outbound", at))?;
        self.bind.iter().try_for_each(|bound| take("--bind", bound.local))?;
        self.transparent_outbound.iter().try_for_each(|at| take("--transparent-outbound", *at))?;
        self.transparent_inbound.into_iter().try_for_each(|at| take("--transparent-inbound", at))?;
        self.dns.iter().try_for_each(|at| take("--dns", at.get()))?;
        self.check_service_addresses(take)?;
        let mut keys = HashSet::new();
        match self.label.iter().find(|(key, _)| !keys.insert(key)) {
            None => Ok(()),
            Some((key, value)) => {
                let problem = "another flag sets the same label".to_owned();
                Err(Error::Flag { flag: "--label", value: format!("{key}={value}"), problem })
            }
        }
    }

    /// Checks that services with the same inbound address have the same application.
    fn check_service_addresses(
        &self,
        mut take: impl FnMut(&'static str, SocketAddr) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for (index, service) in self.service.iter().enumerate() {
            let earlier = &self.service[..index];
            if earlier.iter().any(|other| other.service == service.service && other.port == service.port) {
                return Err(service_problem(service, "the same service and port are named twice"));
            }
            let Some(listen) = service.listen else { continue };
            match earlier.iter().find(|other| other.listen == Some(listen)) {
                None => take("--service", listen)?,
                Some(other) if other.application == service.application => {}
                Some(_) => {
                    return Err(service_problem(
                        service,
                        "another service listens there for another application",
                    ));
                }
            }
        }
        Ok(())
    }
}

fn service_problem(service: &ServicePort, problem: &str) -> Error {
    Error::Flag { flag: "--service", value: service.to_string(), problem: problem.to_owned() }
}
