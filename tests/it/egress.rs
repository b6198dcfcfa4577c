//! Where requests may go, over real sockets: addresses, names, certificates.

use std::{future::pending, io, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use rcgen::{CertificateParams, date_time_ymd};
use tidegate::{
    destinations::{
        DestinationClient as _,
        egress::{Options, Resolver, SystemResolver},
    },
    model::Class,
};
use tokio::net::TcpSocket;

use crate::harness::{
    authority::{Authority, self_signed},
    chaos::{Chaos, Step},
    outlet::{Lab, ScriptedResolver, destination, lab_options, message, now},
    sink::{Answer, Sink},
};

const SOON: Duration = Duration::from_secs(20);

fn system() -> Arc<dyn Resolver> {
    Arc::new(SystemResolver::default())
}

#[tokio::test]
async fn no_spelling_of_loopback_is_dialled() {
    let sink = Sink::new().await;
    let lab = Lab::with(Options::default(), system());
    let port = sink.address().port();
    for host in [
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "0x7f.1",
        "0177.0.0.1",
        "2130706433",
        "127.0.0.2",
        "0.0.0.0",
        "0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "localhost",
        "LocalHost.",
        "sub.localhost",
        "①②⑦.0.0.1",
    ] {
        let outcome = lab.attempt(&format!("http://{host}:{port}/"), SOON).await;
        assert_eq!(outcome.class, Class::Denied, "{host}: {}", outcome.reason);
        assert!(!outcome.reason.contains("127"), "{}", outcome.reason);
    }
    assert_eq!(sink.connections(), 0);
    // The same sink is reached as soon as the operator allows it, so the above could have been.
    assert_eq!(Lab::new().attempt(&sink.url("/"), SOON).await.class, Class::Accepted);
}

/// By address, the table in `egress::policy` says so: were it wrong, a test that dials would ask.
#[tokio::test]
async fn a_name_that_means_the_inside_is_not_even_looked_up() {
    let sink = Sink::new().await;
    let resolver = ScriptedResolver::answering(&["127.0.0.1"]);
    let lab = Lab::with(lab_options(), resolver.clone());
    for (host, class) in [
        ("metadata.google.internal", Class::Denied),
        ("METADATA.google.internal.", Class::Denied),
        ("internal", Class::Denied),
        ("metadata.example.com", Class::Accepted),
    ] {
        let url = format!("http://{host}:{}/latest/meta-data", sink.address().port());
        assert_eq!(lab.attempt(&url, SOON).await.class, class, "{host}");
    }
    assert_eq!((resolver.asked(), sink.connections()), (1, 1));
}

#[tokio::test]
async fn a_name_that_is_rebound_never_reaches_the_denied_address() {
    // Two sinks behind one port; only the first one's address is allowed.
    let (allowed, canary) = loop {
        let canary = Sink::new().await;
        let address = format!("127.0.0.2:{}", canary.address().port()).parse().unwrap();
        let close = |_: &_| Answer::status(200).header("connection", "close");
        if let Ok(allowed) = Sink::at(address, close).await {
            break (allowed, canary);
        }
    };
    let resolver = ScriptedResolver::answering(&["127.0.0.2", "127.0.0.1"]);
    let options = Options { allow_nets: vec!["127.0.0.2".parse().unwrap()], ..Options::default() };
    let lab = Lab::with(options, resolver.clone());
    let url = format!("http://rebound.example.com:{}/", allowed.address().port());
    let outlet = lab.build(&destination(&url));

    for number in 0..10_000 {
        let outcome = outlet.send(&[message(number)], now()).await;
        let expected = if number % 2 == 0 { Class::Accepted } else { Class::Denied };
        assert_eq!(outcome.class, expected, "{number}: {}", outcome.reason);
    }

    assert_eq!((resolver.asked(), allowed.connections(), canary.connections()), (10_000, 5_000, 0));
}

#[tokio::test]
async fn one_denied_answer_denies_the_name() {
    let sink = Sink::new().await;
    let url = format!("http://mixed.example.com:{}/", sink.address().port());
    for answer in ["127.0.0.1 10.0.0.1", "10.0.0.1 127.0.0.1", "127.0.0.1 ::ffff:10.0.0.1"] {
        let lab = Lab::with(lab_options(), ScriptedResolver::answering(&[answer]));
        assert_eq!(lab.attempt(&url, SOON).await.class, Class::Denied, "{answer}");
    }
    assert_eq!(sink.connections(), 0);
}

#[tokio::test]
async fn a_name_that_the_operator_allows_may_lead_inside_but_not_to_ourselves() {
    let [sink, own] = [Sink::new().await, Sink::new().await];
    let options = Options {
        allow_hosts: vec!["CRM.internal.".to_owned()],
        deny_nets: vec!["127.0.0.9".parse().unwrap()],
        ..Options::default()
    };
    let resolver = ScriptedResolver::answering(&["127.0.0.1", "127.0.0.1", "127.0.0.9"]);
    let lab = Lab::with(options, resolver);
    lab.egress.protect(own.address());
    for (port, class) in [
        (sink.address().port(), Class::Accepted),
        (own.address().port(), Class::Denied),
        (sink.address().port(), Class::Denied),
    ] {
        let outcome = lab.attempt(&format!("http://crm.internal:{port}/"), SOON).await;
        assert_eq!(outcome.class, class, "{}", outcome.reason);
    }
    assert_eq!((sink.connections(), own.connections()), (1, 0));
}

#[tokio::test]
async fn our_own_listener_is_denied_although_its_network_is_allowed() {
    let sink = Sink::new().await;
    let lab = Lab::new();
    lab.egress.protect(format!("0.0.0.0:{}", sink.address().port()).parse().unwrap());
    for host in ["127.0.0.1", "127.0.0.2", "localhost"] {
        let url = format!("http://{host}:{}/", sink.address().port());
        let outcome = lab.attempt(&url, SOON).await;
        assert_eq!(outcome.class, Class::Denied, "{host}: {}", outcome.reason);
    }
    assert!(sink.received().is_empty());
}

#[tokio::test]
async fn an_unspecified_address_does_not_lead_to_our_own_listener() {
    let sink = Sink::new().await;
    let allow_nets = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    let lab = Lab::with(Options { allow_nets, ..Options::default() }, system());
    // Given the default: we listen on 127.0.0.1, and everything is allowed
    lab.egress.protect(sink.address());
    for host in ["0.0.0.0", "127.0.0.1", "[::ffff:127.0.0.1]", "[::ffff:0.0.0.0]"] {
        let url = format!("http://{host}:{}/", sink.address().port());
        let outcome = lab.attempt(&url, SOON).await;
        assert_eq!(outcome.class, Class::Denied, "{host}: {}", outcome.reason);
    }
    assert!(sink.received().is_empty());
}

#[tokio::test]
async fn every_address_of_a_name_is_tried() {
    let sink = Sink::new().await;
    let many: Vec<String> = (0..20).map(|it| format!("127.0.1.{it}")).collect();
    let addresses = format!("{} 127.0.0.1", many.join(" "));
    let lab = Lab::with(lab_options(), ScriptedResolver::answering(&[&addresses]));
    let url = format!("http://many.example:{}/", sink.address().port());
    assert_eq!(lab.attempt(&url, SOON).await.class, Class::Accepted);
}

/// On a machine that has no address but loopback there is nothing to show.
#[tokio::test]
async fn our_own_listener_is_denied_through_every_address_of_this_machine() {
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Connecting a UDP socket sends nothing; it only chooses the address that would be used.
    let Ok(()) = probe.connect("192.0.2.1:9") else { return };
    let ip = probe.local_addr().unwrap().ip();
    let everywhere = "0.0.0.0:0".parse().unwrap();
    let sink = Sink::at(everywhere, |_| Answer::status(200)).await.unwrap();
    let allow_nets = vec![ip.to_string().parse().unwrap()];
    let lab = Lab::with(Options { allow_nets, ..Options::default() }, system());
    let url = format!("http://{ip}:{}/", sink.address().port());

    assert_eq!(lab.attempt(&url, SOON).await.class, Class::Accepted);
    lab.egress.protect(sink.address());
    let outcome = lab.attempt(&url, SOON).await;

    assert_eq!(outcome.class, Class::Denied);
    assert_eq!(sink.received().len(), 1);
}

#[tokio::test]
async fn the_next_address_is_tried_when_the_first_refuses() {
    let sink = Sink::new().await;
    let lab = Lab::with(lab_options(), ScriptedResolver::answering(&["127.0.0.77 127.0.0.1"]));
    let url = format!("http://two.example.com:{}/", sink.address().port());
    assert_eq!(lab.attempt(&url, SOON).await.class, Class::Accepted);
    assert_eq!(
        sink.received()[0].header("host"),
        url.trim_start_matches("http://").trim_end_matches('/')
    );
}

#[tokio::test]
async fn a_name_without_address_and_a_port_without_listener_say_so() {
    let lab = Lab::with(lab_options(), ScriptedResolver::answering(&[""]));
    let outcome = lab.attempt("http://nowhere.example.com/secret-path", SOON).await;
    assert_eq!(
        (outcome.class, outcome.reason.as_str()),
        (Class::Dns, "the host name has no address")
    );

    // Bound, so that nobody else takes the port, and not listening.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let outcome = lab.attempt(&format!("http://{}/", socket.local_addr().unwrap()), SOON).await;
    assert_eq!((outcome.class, outcome.reason.as_str()), (Class::Connect, "connection refused"));
}

#[tokio::test]
async fn a_resolver_that_does_not_answer_and_a_handshake_that_stalls_keep_the_deadline() {
    struct Silent;
    #[async_trait]
    impl Resolver for Silent {
        async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            pending().await
        }
    }

    let short = Duration::from_millis(200);
    let outcome =
        Lab::with(lab_options(), Arc::new(Silent)).attempt("http://slow.example.com/", short).await;
    assert_eq!(outcome.class, Class::Timeout);
    assert_eq!(outcome.reason, "timed out looking up the host name");

    let chaos = Chaos::playing([Step::Hang]).await;
    let url = chaos.url("/").replace("http:", "https:");
    let outcome = Lab::new().attempt(&url, short).await;
    assert_eq!(outcome.class, Class::Timeout);
    assert_eq!(outcome.reason, "timed out in the TLS handshake");
    chaos.all_closed().await;
}

#[tokio::test]
async fn only_a_valid_certificate_for_the_host_gets_a_request() {
    let authority = Authority::new();
    let lab = authority.lab();

    for (tls, class, reason) in [
        (authority.server(|_| ()), Class::Accepted, "200 OK"),
        (self_signed(), Class::Tls, "the certificate is self-signed or its issuer is not trusted"),
        (
            authority.server(|it| it.not_after = date_time_ymd(2024, 1, 1)),
            Class::Tls,
            "the certificate has expired",
        ),
        (
            authority.server(|it| it.not_before = date_time_ymd(2400, 1, 1)),
            Class::Tls,
            "the certificate is not valid yet",
        ),
        (
            authority.server(|it| {
                it.subject_alt_names = CertificateParams::new(vec!["example.com".to_owned()])
                    .unwrap()
                    .subject_alt_names;
            }),
            Class::Tls,
            "the certificate is for another host",
        ),
    ] {
        let sink = Sink::over_tls(tls).await;
        let url = format!("https://hooks.example.com:{}/", sink.address().port());
        let outcome = lab.attempt(&url, SOON).await;
        assert_eq!((outcome.class, outcome.reason.as_str()), (class, reason));
        sink.open_connections_become(0).await;
        let expected = usize::from(class == Class::Accepted);
        assert_eq!((sink.connections(), sink.received().len()), (1, expected), "{reason}");
    }
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused_without_the_extra_file() {
    let sink = Sink::over_tls(Authority::new().server(|_| ())).await;
    let lab = Lab::with(lab_options(), ScriptedResolver::answering(&["127.0.0.1"]));
    let url = format!("https://hooks.example.com:{}/", sink.address().port());
    assert_eq!(lab.attempt(&url, SOON).await.class, Class::Tls);
    assert!(sink.received().is_empty());
}

#[tokio::test]
async fn tls_connections_are_kept_too() {
    let authority = Authority::new();
    let lab = authority.lab();
    let sink = Sink::over_tls(authority.server(|_| ())).await;
    let url = format!("https://hooks.example.com:{}/", sink.address().port());
    let outlet = lab.build(&destination(&url));
    for number in 0..20 {
        assert_eq!(outlet.send(&[message(number)], now()).await.class, Class::Accepted);
    }
    assert_eq!((sink.connections(), sink.received().len()), (1, 20));
}

#[tokio::test]
async fn a_port_that_does_not_speak_tls_is_a_tls_failure() {
    let sink = Sink::new().await;
    let url = format!("https://localhost:{}/", sink.address().port());
    let outcome = Lab::new().attempt(&url, SOON).await;
    assert_eq!(outcome.class, Class::Tls, "{}", outcome.reason);
    assert!(sink.received().is_empty());
}
