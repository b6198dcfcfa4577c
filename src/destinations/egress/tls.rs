//! TLS 1.2 and 1.3 with hostname verification, always.

use std::{fs::File, io::BufReader, path::Path, sync::Arc};

use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read certificates from {path}")]
    File { path: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{path} holds no certificate that can be trusted")]
    Empty { path: String },
    #[error("cannot set up TLS")]
    Setup(#[source] rustls::Error),
}

/// A configuration that trusts what the machine trusts (or, where it has no roots, Mozilla's list)
/// and the authorities in the extra file.
pub(super) fn config(extra: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "cannot read a trusted certificate");
    }
    roots.add_parsable_certificates(native.certs);
    if roots.is_empty() {
        tracing::info!("this machine trusts no certificates: using Mozilla's list");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(path) = extra {
        add_file(&mut roots, path)?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), TlsError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| TlsError::File {
        path: path.display().to_string(),
        source,
    };
    let file = File::open(path).map_err(|it| failed(it.into()))?;
    let mut added = 0;
    for certificate in CertificateDer::pem_reader_iter(BufReader::new(file)) {
        let certificate = certificate.map_err(|it| failed(it.into()))?;
        roots.add(certificate).map_err(|it| failed(it.into()))?;
        added += 1;
    }
    if added == 0 {
        return Err(TlsError::Empty { path: path.display().to_string() });
    }
    Ok(())
}

/// What went wrong in a handshake, in words that help.
pub(super) fn describe(error: &std::io::Error) -> &'static str {
    use rustls::{AlertDescription, CertificateError, Error};

    let inner = error.get_ref().and_then(|it| it.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(why)) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the certificate has expired"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the certificate is not valid yet"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the certificate is for another host"
            }
            CertificateError::UnknownIssuer => {
                "the certificate is self-signed or its issuer is not trusted"
            }
            CertificateError::Revoked => "the certificate is revoked",
            _ => "the certificate is not valid",
        },
        Some(Error::AlertReceived(
            AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion,
        ))
        | Some(Error::PeerIncompatible(_)) => {
            "the endpoint supports neither TLS 1.3 nor TLS 1.2 with a cipher that is considered safe"
        }
        Some(Error::AlertReceived(_)) => "the endpoint ended the TLS handshake",
        Some(Error::InvalidMessage(_)) => "the endpoint does not speak TLS on this port",
        Some(_) => "the TLS handshake failed",
        None => "the connection broke during the TLS handshake",
    }
}
