//! A registry in a few lines that serves what it is given and, where asked, misbehaves. It exists for what
//! a real registry cannot be made to do; everything else is tested against a real one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

use tokio_rustls::TlsAcceptor;

use super::fixture::Blobs;

#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Content-Length, when it is not the body's.
    pub length: Option<u64>,
    /// No Content-Length, and the body again and again until nobody reads it.
    pub endless: bool,
    /// Close after this many bytes of the body.
    pub cut: Option<usize>,
    /// Say nothing more after the body (or its cut part), and keep the connection.
    pub stall: bool,
    /// One byte of the body each time this long has passed.
    pub drip: Option<std::time::Duration>,
    /// Accept the request and say nothing at all.
    pub silent: bool,
}

impl Reply {
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("Content-Type".into(), content_type.into())];
        let body = body.into();
        Self { status, headers, body, length: None, endless: false, cut: None, stall: false, drip: None, silent: false }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

type Handler = dyn Fn(&Request) -> Option<Reply> + Send + Sync;

/// The server; it ends with its runtime.
pub struct Server {
    pub host: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Serves `tags` and `blobs` of any repository; `quirk` answers first.
    pub async fn start(
        blobs: Blobs,
        tags: &[(&str, &crate::image::Descriptor)],
        quirk: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(blobs, tags, None, quirk).await
    }

    /// The same over TLS, by a certificate and its key.
    pub async fn start_tls(
        blobs: Blobs,
        tags: &[(&str, &crate::image::Descriptor)],
        (certificate, key): (PathBuf, PathBuf),
        quirk: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap())
            .unwrap();
        Self::start_with(blobs, tags, Some(TlsAcceptor::from(Arc::new(config))), quirk).await
    }

    async fn start_with(
        blobs: Blobs,
        tags: &[(&str, &crate::image::Descriptor)],
        tls: Option<TlsAcceptor>,
        quirk: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let tags: Arc<BTreeMap<String, String>> =
            Arc::new(tags.iter().map(|(t, d)| ((*t).to_owned(), d.digest.to_string())).collect());
        let (log, blobs, quirk): (Arc<Mutex<Vec<Request>>>, _, Arc<Handler>) =
            (Arc::default(), Arc::new(blobs), Arc::new(quirk));
        let requests = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, blobs, tags, quirk) =
                    (Arc::clone(&requests), Arc::clone(&blobs), Arc::clone(&tags), Arc::clone(&quirk));
                let tls = tls.clone();
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                let _ = serve(stream, &log, &blobs, &tags, &*quirk).await;
                            }
                        }
                        None => {
                            let _ = serve(stream, &log, &blobs, &tags, &*quirk).await;
                        }
                    }
                });
            }
        });
        Self { host, log }
    }

    /// Paths asked for by GET, once for each time.
    pub fn gets(&self) -> Vec<String> {
        self.requests().into_iter().filter(|r| r.method == "GET").map(|r| r.path).collect()
    }

    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    log: &Mutex<Vec<Request>>,
    blobs: &Blobs,
    tags: &BTreeMap<String, String>,
    quirk: &Handler,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut lines = text.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let mut request = Request {
        method: first.next().unwrap_or_default().into(),
        path: first.next().unwrap_or_default().into(),
        headers: lines
            .filter_map(|l| l.split_once(':'))
            .map(|(k, v)| (k.to_ascii_lowercase(), v.trim().to_owned()))
            .collect(),
        body: Vec::new(),
    };
    let length = request.headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    request.body.resize(length, 0);
    stream.read_exact(&mut request.body).await?;
    log.lock().unwrap().push(request.clone());
    let reply = quirk(&request).unwrap_or_else(|| answer(&request, blobs, tags));
    if reply.silent {
        std::future::pending::<()>().await;
    }
    let mut out = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    if !reply.endless {
        out += &format!("Content-Length: {}\r\n", reply.length.unwrap_or(reply.body.len() as u64));
    }
    for (name, value) in &reply.headers {
        out += &format!("{name}: {value}\r\n");
    }
    out += "\r\n";
    stream.write_all(out.as_bytes()).await?;
    if reply.endless && request.method != "HEAD" {
        loop {
            stream.write_all(&reply.body).await?;
        }
    }
    if request.method != "HEAD" {
        let body = &reply.body[..reply.cut.unwrap_or(reply.body.len())];
        match reply.drip {
            Some(pause) => {
                for byte in body {
                    stream.write_all(&[*byte]).await?;
                    stream.flush().await?;
                    tokio::time::sleep(pause).await;
                }
            }
            None => stream.write_all(body).await?,
        }
    }
    stream.flush().await?;
    if reply.stall {
        std::future::pending::<()>().await;
    }
    stream.shutdown().await
}

fn answer(request: &Request, blobs: &Blobs, tags: &BTreeMap<String, String>) -> Reply {
    let missing = || Reply::new(404, "application/json", r#"{"errors":[{"code":"X","message":"no such thing"}]}"#);
    let path = request.path.split('?').next().unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    let name = tags.get(name).map_or(name, String::as_str);
    let Some(bytes) = name.parse().ok().and_then(|digest| blobs.0.get(&digest)) else { return missing() };
    let media_type = serde_json::from_slice::<serde_json::Value>(bytes)
        .ok()
        .and_then(|v| v["mediaType"].as_str().map(str::to_owned))
        .unwrap_or_else(|| "application/octet-stream".into());
    let from = request.headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match from {
        Some(from) if from < bytes.len() => Reply::new(206, &media_type, &bytes[from..])
            .header("Content-Range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
        Some(_) => Reply::new(416, "text/plain", "range"),
        None => Reply::new(200, &media_type, bytes.clone()).header("Docker-Content-Digest", name),
    }
}
