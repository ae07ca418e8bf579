//! What holds for every text and every address, against the slow and obvious way to say it.

use super::*;

/// A file of prefixes: read as the obvious reader does, and asked as it answers.
pub fn text(data: &[u8]) {
    let cut = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (text, asked) = (&data[..cut], data.get(cut + 1..).unwrap_or_default());
    let mut prefixes = Prefixes::new();
    let read = prefixes.read(text, Verdict::Out);
    let obvious: Vec<Option<Result<(IpAddr, u8), ()>>> = text.split(|b| *b == b'\n').map(line).collect();
    let wrong: Vec<usize> =
        obvious.iter().zip(1..).filter(|(line, _)| matches!(line, Some(Err(())))).map(|(_, at)| at).collect();
    match read {
        Err(errors) => {
            let told: Vec<usize> = errors.iter().map(|error| error.line).collect();
            assert_eq!(told, wrong[..wrong.len().min(ERRORS_MAX)]);
        }
        Ok(()) => {
            assert!(wrong.is_empty(), "{wrong:?}");
            let networks: Vec<(IpAddr, u8)> = obvious.into_iter().flatten().flatten().collect();
            assert_eq!(networks.len(), prefixes.len());
            // The first of the asked bytes halve the list, so that both verdicts are among it.
            let split = asked.first().map_or(0, |byte| usize::from(*byte)).min(networks.len());
            let mut prefixes = Prefixes::new();
            let mut listed = Vec::new();
            for (at, &(address, bits)) in networks.iter().enumerate() {
                let verdict = if at < split { Verdict::In } else { Verdict::Out };
                let network = Network::new(address, bits).expect("read before");
                prefixes.add(network, verdict);
                listed.push((network, verdict));
            }
            let set = prefixes.compile(Verdict::In);
            let mut addresses: Vec<IpAddr> = asked.chunks_exact(4).map(v4).collect();
            addresses.extend(asked.chunks_exact(16).map(v6));
            for (network, _) in &listed {
                addresses.extend(edges(network));
            }
            for address in addresses {
                assert_eq!(set.contains(address), decide(&listed, Verdict::In, address), "{address}");
            }
        }
    }
}

fn v4(bytes: &[u8]) -> IpAddr {
    IpAddr::from(<[u8; 4]>::try_from(bytes).unwrap_or_default())
}

fn v6(bytes: &[u8]) -> IpAddr {
    IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap_or_default())
}

/// The first and last address of a network, and those beside them.
pub fn edges(network: &Network) -> Vec<IpAddr> {
    match network.address {
        IpAddr::V4(start) => {
            let (start, last) = (start.to_bits(), start.to_bits().last(network.bits));
            [start, last, start.wrapping_sub(1), last.wrapping_add(1)]
                .map(|n| Ipv4Addr::from(n).into())
                .into()
        }
        IpAddr::V6(start) => {
            let (start, last) = (start.to_bits(), start.to_bits().last(network.bits));
            [start, last, start.wrapping_sub(1), last.wrapping_add(1)]
                .map(|n| Ipv6Addr::from(n).into())
                .into()
        }
    }
}

/// The law, word by word.
pub fn decide(listed: &[(Network, Verdict)], otherwise: Verdict, address: IpAddr) -> bool {
    let address = address.to_canonical();
    let holds = |network: &Network| match (network.address, address) {
        (IpAddr::V4(start), IpAddr::V4(asked)) => {
            (start.to_bits()..=start.to_bits().last(network.bits)).contains(&asked.to_bits())
        }
        (IpAddr::V6(start), IpAddr::V6(asked)) => {
            (start.to_bits()..=start.to_bits().last(network.bits)).contains(&asked.to_bits())
        }
        _ => false,
    };
    let longest = listed
        .iter()
        .filter(|(network, _)| holds(network))
        .max_by(|one, two| one.0.bits.cmp(&two.0.bits).then(two.1.cmp(&one.1)));
    longest.map_or(otherwise, |(_, verdict)| *verdict) == Verdict::In
}

/// A line as the library reads it: nothing, wrong, or a network.
fn line(line: &[u8]) -> Option<Result<(IpAddr, u8), ()>> {
    if line.len() > LINE_BYTES_MAX {
        return Some(Err(()));
    }
    let text = String::from_utf8_lossy(line);
    let text = text.split(['#', ';']).next().unwrap_or_default();
    let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
    if text.is_empty() {
        return None;
    }
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let Ok(address) = address.parse::<IpAddr>() else { return Some(Err(())) };
    let width = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        None => width,
        Some(bits) => match bits.parse::<u8>() {
            Ok(number) if number <= width && number.to_string() == bits => number,
            _ => return Some(Err(())),
        },
    };
    let clean = match address {
        IpAddr::V4(v4) => u64::from(v4.to_bits()) << bits & u64::from(u32::MAX) == 0,
        IpAddr::V6(v6) => bits == 128 || v6.to_bits() << bits == 0,
    };
    if clean { Some(Ok((address, bits))) } else { Some(Err(())) }
}
