//! What a node says of itself: the numbers that nobody counts but that are, and whether it is ready.
//!
//! Not for what the cores count, which is in the [`Registry`]. Made once, at the start; read by the listener for metrics and health.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::{Told, lock, now_ms};
use crate::accept::pressure::Level;
use crate::control::admin::{Format, Pages};
use crate::observe::{Exposition, Family, Registry};
use crate::policy::admit::blocks::Blocks;
use crate::worker::core::Node;
use crate::worker::driver::Choice;

pub(super) fn add_sources(
    registry: &mut Registry,
    node: &Arc<Node>,
    choices: &[Choice],
    expired: usize,
    reload_ok: &Arc<AtomicBool>,
    told: &Arc<Told>,
) {
    let (reload_ok, told) = (Arc::clone(reload_ok), Arc::clone(told));
    let drivers: Vec<&'static str> = choices.iter().map(|choice| choice.driver.name()).collect();
    let node = Arc::clone(node);
    registry.add_source(move |samples| {
        for (core, driver) in drivers.iter().enumerate() {
            samples.push(Family::DriverInfo, &[("core", &core.to_string()), ("driver", driver)], 1.0);
        }
        samples.push(Family::ConfigGeneration, &[], node.generation.load(Ordering::Relaxed) as f64);
        let reloaded = f64::from(u8::from(reload_ok.load(Ordering::Relaxed)));
        samples.push(Family::ConfigLastReloadSuccess, &[], reloaded);
        let spread_us = told.spread_us.load(Ordering::Relaxed);
        samples.push(Family::ConfigSpread, &[], spread_us as f64 / 1e6);
        samples.push(Family::ConfigsAlive, &[], told.configs_alive.load(Ordering::Relaxed) as f64);
        samples.push(Family::ExceptionsExpired, &[], expired as f64);
        samples.push(Family::Blocks, &[], node.blocks.look(Blocks::len) as f64);
        samples.push(Family::ConnectionsMax, &[], f64::from(node.caps.bounds().all));
        for (what, used, most, resource) in [
            ("memory", Family::MemoryUsed, Family::MemoryMax, &node.pressure.memory),
            ("descriptors", Family::DescriptorsUsed, Family::DescriptorsMax, &node.pressure.descriptors),
        ] {
            let figures = resource.figures();
            samples.push(used, &[], figures.0 as f64);
            samples.push(most, &[], figures.1 as f64);
            let short = resource.level() > Level::Easy;
            samples.push(Family::AcceptsPaused, &[("reason", what)], f64::from(u8::from(short)));
        }
        let snapshot = node.snapshot.load();
        for listener in &snapshot.listeners {
            if let Some(tls) = &listener.tls {
                let expiry = tls.not_after_s as f64;
                samples.push(Family::CertificateExpiry, &[("listener", &listener.name)], expiry);
                if let Some(lists) = tls.clients().and_then(|clients| clients.lists()) {
                    let ends = lists.next_update_s as f64;
                    samples.push(Family::ClientCrlExpiry, &[("listener", &listener.name)], ends);
                }
            }
        }
        let now_ns = crate::sys::thread::monotonic_ns();
        let tables = [
            ("address", snapshot.tables.minted.used_ratio(now_ns)),
            ("identity", snapshot.tables.identities.used_ratio(now_ns)),
            ("address_in_flight", snapshot.tables.minted_counts.used_ratio()),
            ("identity_in_flight", snapshot.tables.identity_counts.used_ratio()),
            ("connection", node.arrivals.used_ratio(now_ns)),
        ];
        for (keys, used_ratio) in tables {
            samples.push(Family::LimitTableUsed, &[("policy", keys)], used_ratio);
        }
        for upstream in &snapshot.upstreams {
            if let Some(valid) = upstream.files_are_valid() {
                let labels = [("upstream", &*upstream.name)];
                samples.push(Family::UpstreamTargetsValid, &labels, f64::from(u8::from(valid)));
            }
            let labels = [("upstream", &*upstream.name)];
            if let Some(slots) = &upstream.slots {
                samples.push(Family::UpstreamInFlight, &labels, f64::from(slots.in_flight()));
                samples.push(Family::UpstreamInFlightMax, &labels, f64::from(slots.limit()));
            }
            if let Some(breaker) = &upstream.breaker {
                let open = breaker.state() != crate::upstream::breaker::State::Closed;
                samples.push(Family::BreakerOpen, &labels, f64::from(u8::from(open)));
            }
            let now_ms = crate::sys::thread::monotonic_ns() / 1_000_000;
            for seat in &upstream.members().seats {
                let member = &seat.member;
                let ejected = f64::from(u8::from(member.record.is_out(now_ms)));
                let labels = [("upstream", &*upstream.name), ("target", member.name())];
                samples.push(Family::UpstreamConnections, &labels, f64::from(member.open()));
                samples.push(Family::UpstreamUp, &labels, f64::from(u8::from(member.is_up())));
                samples.push(Family::UpstreamEjected, &labels, ejected);
            }
        }
    });
}

pub(super) fn pages(registry: &Arc<Mutex<Registry>>, node: &Arc<Node>) -> Pages {
    let registry = Arc::clone(registry);
    let node = Arc::clone(node);
    Pages {
        metrics: Arc::new(move |format| {
            let form = match format {
                Format::Prometheus => Exposition::Text,
                Format::OpenMetrics => Exposition::OpenMetrics,
            };
            lock(&registry).page(form, now_ms())
        }),
        ready: Arc::new(move || match (node.draining.load(Ordering::Relaxed), node.pressure.told()) {
            (true, _) => Err("draining".to_owned()),
            (false, Some(what)) => Err(format!("short of {what}")),
            (false, None) => Ok(()),
        }),
    }
}
