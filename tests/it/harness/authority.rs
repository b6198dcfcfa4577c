//! Certificates that a test may get wrong on purpose.

use std::{io::Write as _, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tidegate::destinations::egress::Options;

use super::outlet::{Lab, ScriptedResolver, lab_options};

/// A certificate authority of the test's own.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of this test");
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A lab that trusts this authority, and for which every name is this machine.
    pub fn lab(&self) -> Lab {
        let mut roots = tempfile::NamedTempFile::new().unwrap();
        roots.write_all(self.pem.as_bytes()).unwrap();
        let options = Options { extra_roots: Some(roots.path().to_owned()), ..lab_options() };
        Lab::with(options, ScriptedResolver::answering(&["127.0.0.1"]))
    }

    /// For a file of roots.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate of a name, and its key, for files of a server.
    pub fn pems(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A server of `hooks.example.com`, whose certificate is changed first.
    pub fn server(&self, change: impl FnOnce(&mut CertificateParams)) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["hooks.example.com".to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        server_config(certificate.der().clone(), &key)
    }
}

fn server_config(certificate: CertificateDer<'static>, key: &KeyPair) -> ServerConfig {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap()
}

/// A server of `hooks.example.com` that vouches for itself.
pub fn self_signed() -> ServerConfig {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["hooks.example.com".to_owned()]).unwrap();
    server_config(params.self_signed(&key).unwrap().der().clone(), &key)
}
