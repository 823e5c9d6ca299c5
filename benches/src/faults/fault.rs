//! The faults. Each affects the second of three endpoints unless it says otherwise.

use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Command;

use super::endpoint::Behaviour;
use super::proxy::Proxy;
use super::topology::{ENDPOINTS, Topology};

/// The affected endpoint.
pub(super) const VICTIM: u8 = 2;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// SIGKILL for the application and its sidecar.
    Killed,
    /// SIGKILL for the application behind a live sidecar.
    ApplicationKilled,
    /// Every packet to the endpoint is answered with a TCP reset.
    Reset,
    /// Every packet to and from the endpoint is dropped.
    BlackHole,
    /// SIGSTOP for the application and its sidecar.
    Frozen,
    /// The same, with clients that time out after a second.
    FrozenImpatient,
    /// SIGSTOP for the application behind a live sidecar.
    ApplicationFrozen,
    /// The same, with clients that time out after a second.
    ApplicationFrozenImpatient,
    /// SIGSTOP for three seconds: a pod whose CPU is throttled.
    Throttled,
    /// Responses are delayed by a second.
    Slow,
    /// Four of five requests fail at once with 500; the other endpoints take 40 ms.
    FailsFast,
    /// Every sidecar is stopped with SIGTERM and started again, one after the other.
    RollingRestart,
    /// The same with SIGKILL.
    RollingKill,
    /// All endpoints answer 503.
    AllUnavailable,
    /// The control plane is killed and started again, over and over, while configuration is written.
    ControlPlaneKilled,
    /// The control plane is down, and sidecars restart meanwhile.
    ControlPlaneAway,
    /// Certificates have a lifetime of two seconds.
    ShortCertificates,
}

impl Fault {
    /// All faults, in the order of the table.
    pub(super) const ALL: [Self; 17] = [
        Self::Killed,
        Self::ApplicationKilled,
        Self::Reset,
        Self::BlackHole,
        Self::Frozen,
        Self::FrozenImpatient,
        Self::ApplicationFrozen,
        Self::ApplicationFrozenImpatient,
        Self::Throttled,
        Self::Slow,
        Self::FailsFast,
        Self::RollingRestart,
        Self::RollingKill,
        Self::AllUnavailable,
        Self::ControlPlaneKilled,
        Self::ControlPlaneAway,
        Self::ShortCertificates,
    ];

    /// The faults of the short form.
    pub(super) const QUICK: [Self; 7] = [
        Self::Killed,
        Self::BlackHole,
        Self::FrozenImpatient,
        Self::ApplicationFrozen,
        Self::FailsFast,
        Self::RollingRestart,
        Self::AllUnavailable,
    ];

    /// The name in the table and in `--only`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::ApplicationKilled => "application-killed",
            Self::Reset => "reset",
            Self::BlackHole => "black-hole",
            Self::Frozen => "frozen",
            Self::FrozenImpatient => "frozen-1s-clients",
            Self::ApplicationFrozen => "application-frozen",
            Self::ApplicationFrozenImpatient => "application-frozen-1s-clients",
            Self::Throttled => "throttled-3s",
            Self::Slow => "slow-1s",
            Self::FailsFast => "fails-fast",
            Self::RollingRestart => "rolling-restart",
            Self::RollingKill => "rolling-kill",
            Self::AllUnavailable => "all-503",
            Self::ControlPlaneKilled => "control-plane-killed",
            Self::ControlPlaneAway => "control-plane-away",
            Self::ShortCertificates => "certificates-2s",
        }
    }

    /// Returns true if the fault applies to this topology.
    pub(super) fn strikes(self, proxy: &Proxy) -> bool {
        match self {
            Self::ApplicationKilled
            | Self::ApplicationFrozen
            | Self::ApplicationFrozenImpatient
            | Self::RollingRestart
            | Self::RollingKill
            | Self::ControlPlaneKilled
            | Self::ControlPlaneAway
            | Self::ShortCertificates => *proxy == Proxy::Mesh,
            _ => true,
        }
    }

    /// Returns the clients' timeout.
    pub(super) fn patience(self) -> Duration {
        match self {
            Self::FrozenImpatient | Self::ApplicationFrozenImpatient => Duration::from_secs(1),
            _ => Duration::from_secs(20),
        }
    }

    /// Returns the lifetime of certificates.
    pub(super) fn certificate_ttl(self) -> Duration {
        Duration::from_secs(if self == Self::ShortCertificates { 2 } else { 3600 })
    }

    /// Returns true if a GET may fail under this fault: no endpoint can answer it, or the response is the application's
    /// own.
    pub(super) fn may_lose(self) -> bool {
        matches!(self, Self::FailsFast | Self::AllUnavailable)
    }

    /// Prepares the fault before the load starts.
    pub(super) async fn prepare(self, topology: &Topology) -> Result<(), String> {
        let behaviour = match self {
            Self::FailsFast => Behaviour { delay: Duration::from_millis(40), ..Behaviour::HEALTHY },
            // From the start: otherwise the retry budget of the last ten seconds would include earlier requests.
            Self::AllUnavailable => Behaviour { fail_percent: 100, status: 503, ..Behaviour::HEALTHY },
            _ => return Ok(()),
        };
        for number in 1..=ENDPOINTS {
            topology.behave(number, behaviour).await?;
        }
        Ok(())
    }

    /// Causes the fault within `length`, while the load runs. [`clear`] reverts its changes of the network.
    pub(super) async fn strike(self, topology: &mut Topology, length: Duration) -> Result<(), String> {
        let both = |topology: &Topology, signal| {
            topology.signal_application(VICTIM, signal)?;
            topology.signal_sidecar(VICTIM, signal)
        };
        let endpoint = topology.endpoint(VICTIM);
        let (address, port) = (endpoint.ip(), endpoint.port());
        match self {
            Self::Killed => both(topology, Signal::KILL)?,
            Self::ApplicationKilled => topology.signal_application(VICTIM, Signal::KILL)?,
            Self::Reset => {
                rules(&[&format!("ip daddr {address} tcp dport {port} reject with tcp reset")]).await?;
            }
            Self::BlackHole => {
                rules(&[&format!("ip daddr {address} drop"), &format!("ip saddr {address} drop")]).await?;
            }
            Self::Frozen | Self::FrozenImpatient => both(topology, Signal::STOP)?,
            Self::ApplicationFrozen | Self::ApplicationFrozenImpatient => {
                topology.signal_application(VICTIM, Signal::STOP)?;
            }
            Self::Throttled => {
                both(topology, Signal::STOP)?;
                tokio::time::sleep(Duration::from_secs(3)).await;
                both(topology, Signal::CONT)?;
            }
            Self::Slow => {
                let delay = Behaviour::HEALTHY.delay + Duration::from_secs(1);
                topology.behave(VICTIM, Behaviour { delay, ..Behaviour::HEALTHY }).await?;
            }
            Self::FailsFast => {
                let behaviour = Behaviour { fail_percent: 80, ..Behaviour::HEALTHY };
                topology.behave(VICTIM, behaviour).await?;
            }
            Self::RollingRestart | Self::RollingKill => {
                for number in 1..=ENDPOINTS {
                    topology.restart_sidecar(number, self == Self::RollingRestart).await?;
                }
            }
            Self::ControlPlaneKilled => {
                // Twenty times in the long form's 25 s.
                for revision in 0..(length.as_millis() / 1250) as u32 {
                    topology.write_other(revision)?;
                    topology.kill_control_plane().await?;
                    topology.write_other(revision + 1000)?;
                    topology.start_control_plane().await?;
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            }
            Self::ControlPlaneAway => {
                topology.kill_control_plane().await?;
                for number in 1..=ENDPOINTS {
                    tokio::time::sleep(length / 5).await;
                    topology.restart_sidecar(number, true).await?;
                }
                topology.start_control_plane().await?;
            }
            Self::AllUnavailable | Self::ShortCertificates => {}
        }
        Ok(())
    }
}

/// Adds rules for what leaves a socket in this namespace; everything here is local, so that all traffic passes them.
async fn rules(rules: &[&str]) -> Result<(), String> {
    let rules = rules.join("; ");
    nft(&format!("table inet faults {{ chain out {{ type filter hook output priority 0; {rules}; }}; }}"))
        .await
}

/// Removes every rule.
pub(super) async fn clear() -> Result<(), String> {
    nft("flush ruleset").await
}

async fn nft(command: &str) -> Result<(), String> {
    let output = Command::new("nft")
        .arg(command)
        .output()
        .await
        .map_err(|error| format!("cannot run nft: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("nft {command}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
