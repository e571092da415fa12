//! A proxy between us and a real registry whose name nobody else can resolve.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::certificates::Authority;
use super::fixture::{Blobs, LayerTar};
use super::registry::{Node, Registry};
use crate::image::registry::Proxies;
use crate::image::{PullOptions, RegistryConfig};

/// Knows `registry.test` and nobody else; wants a user.
struct Proxy {
    host: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start(registry: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, registry) = (Arc::clone(&log), registry.clone());
                tokio::spawn(async move {
                    let _ = pass(stream, &registry, &log).await;
                });
            }
        });
        Self { host, asked }
    }
}

async fn pass(mut stream: TcpStream, registry: &str, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let first = text.lines().next().unwrap_or_default().to_owned();
    log.lock().unwrap().push(first.clone());
    // user:pass
    if !text.to_ascii_lowercase().contains("proxy-authorization: basic dxnlcjpwyxnz") {
        return stream.write_all(b"HTTP/1.1 407 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    }
    if !first.contains("registry.test:5000") {
        return stream.write_all(b"HTTP/1.1 502 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    }
    let mut onward = TcpStream::connect(registry).await?;
    if first.starts_with("CONNECT ") {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    } else {
        // The absolute form becomes the one that servers expect; the connection ends with this request.
        let text = text.replacen("http://registry.test:5000", "", 1);
        onward.write_all(text.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes()).await?;
    }
    copy_bidirectional(&mut stream, &mut onward).await.map(drop)
}

#[test]
fn a_registry_behind_a_proxy_is_pulled_from_with_tls_and_without() {
    for tls in [true, false] {
        let authority = Authority::new();
        let server = authority.docker_registry("DNS:registry.test,IP:127.0.0.1", false);
        let registry = Registry::start_with(None, if tls { &server } else { "" });
        let dir = tempfile::tempdir().unwrap();
        let mut blobs = Blobs::default();
        let image = blobs.image("amd64", &[LayerTar::new().file("a", b"1").done()]);
        blobs.layout(dir.path(), &[("x", &image)]);
        registry.push(dir.path(), "x", "lab/app:1", &[]);

        let certs = tempfile::tempdir().unwrap();
        if tls {
            std::fs::create_dir(certs.path().join("registry.test:5000")).unwrap();
            std::fs::copy(authority.ca(), certs.path().join("registry.test:5000/ca.crt")).unwrap();
        }
        let options = PullOptions { platform: "linux/amd64".parse().unwrap(), plain_http: !tls, ..Default::default() };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let proxy = runtime.block_on(Proxy::start(registry.host.clone()));
        let node = |all_proxy: String| {
            let proxies = Proxies::from(|name| (name == "ALL_PROXY").then(|| all_proxy.clone()));
            Node::new(RegistryConfig { certs_dir: certs.path().into(), proxies, ..RegistryConfig::for_tests() })
        };
        let through = node(format!("user:pass@{}", proxy.host));
        assert_eq!(through.pull("registry.test:5000/lab/app:1", &options).unwrap().target.digest, image.digest);
        let expected = if tls { "CONNECT registry.test:5000" } else { " http://registry.test:5000/v2/" };
        assert!(proxy.asked.lock().unwrap().iter().all(|line| line.contains(expected)));
        let before = proxy.asked.lock().unwrap().len();
        // This machine is never asked through it.
        let local = PullOptions { skip_verify: tls, plain_http: false, ..options.clone() };
        through.pull(&format!("{}/lab/app:1", registry.host), &local).unwrap();
        assert_eq!(proxy.asked.lock().unwrap().len(), before);

        // One that refuses us, and one that is not there.
        let refused = node(proxy.host.clone()).pull("registry.test:5000/lab/app:1", &options).unwrap_err().to_string();
        assert!(refused.contains("proxy"), "{refused}");
        let absent = node("user:pass@127.0.0.1:1".into()).pull("registry.test:5000/lab/app:1", &options);
        let absent = absent.unwrap_err().to_string();
        assert!(absent.ends_with("(by way of proxy 127.0.0.1:1)") && !absent.contains("pass"), "{absent}");
    }
}

#[test]
fn a_socks_proxy_is_spoken_to_as_one() {
    let node_through = |proxy: String| {
        let proxies = Proxies::from(|name| (name == "ALL_PROXY").then(|| proxy.clone()));
        Node::new(RegistryConfig { proxies, ..RegistryConfig::for_tests() })
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (host, heard) = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let heard = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // RFC 1928: version 5; no method suits us, and that is the end.
            let version = stream.read_u8().await.unwrap();
            stream.write_all(&[5, 0xff]).await.unwrap();
            version
        });
        (host, heard)
    });
    let error = node_through(format!("socks5h://{host}")).pull("registry.test/a/b:1", &PullOptions::default());
    let text = error.unwrap_err().to_string();
    assert!(text.contains(&format!("by way of proxy {host}")), "{text}");
    assert_eq!(runtime.block_on(heard).unwrap(), 5);
}
