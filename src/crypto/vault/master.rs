//! Master keys: where they come from, and what is derived from them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::LoadError;
use crate::crypto::random::Random;

/// Hexadecimal digits of a key's id.
pub(super) const ID_LENGTH: usize = 8;

pub(super) struct MasterKey {
    bytes: Zeroizing<[u8; 32]>,
    /// Derived from the key, so that it need not be kept.
    id: String,
}

impl MasterKey {
    fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        let mut key = Self { bytes, id: String::new() };
        key.id = hex::encode(&key.derive("key id")[..ID_LENGTH / 2]);
        key
    }

    pub fn generate(random: &dyn Random) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        random.fill(bytes.as_mut());
        Self::new(bytes)
    }

    /// As it stands in a file.
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.bytes.as_ref()))
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// A key for one purpose, which tells nothing about the master key or other purposes.
    pub fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        let mut derived = Zeroizing::new([0; 32]);
        let expanded = Hkdf::<Sha256>::new(Some(b"tidegate vault v1"), self.bytes.as_ref())
            .expand(purpose.as_bytes(), derived.as_mut());
        // HKDF refuses only outputs above 255 hashes; this one is a single hash.
        debug_assert!(expanded.is_ok());
        derived
    }
}

/// What is kept of a master key that is retired: what it was for beside sealing. It opens no secret.
pub(super) struct RetiredKey {
    pub purpose: &'static str,
    pub bytes: Zeroizing<[u8; 32]>,
}

/// How they stand in a file, and what they were derived for.
const KEPT: [(&str, &str); 2] =
    [("api-keys:", super::API_KEYS), ("pseudonyms:", super::PSEUDONYMS)];

impl RetiredKey {
    pub fn text(&self) -> Zeroizing<String> {
        let name = KEPT.iter().find(|it| it.1 == self.purpose).map_or("", |it| it.0);
        Zeroizing::new(format!("{name}{}", STANDARD.encode(self.bytes.as_ref())))
    }
}

/// What a text gives.
pub(super) struct GivenKeys {
    /// Never empty.
    pub keys: Vec<MasterKey>,
    pub kept: Vec<RetiredKey>,
}

/// One or more keys, separated by commas or white space. Empty text has none, which is an error.
pub(super) fn parse(text: &str) -> Result<GivenKeys, LoadError> {
    let mut given = GivenKeys { keys: Vec::new(), kept: Vec::new() };
    let bytes = |text: &str| -> Result<Zeroizing<[u8; 32]>, LoadError> {
        let bytes = Zeroizing::new(STANDARD.decode(text).map_err(|_| LoadError::Malformed)?);
        let bytes = bytes.as_slice().try_into().map_err(|_| LoadError::Malformed)?;
        Ok(Zeroizing::new(bytes))
    };
    let words = text.split(|it: char| it == ',' || it.is_whitespace());
    for word in words.filter(|it| !it.is_empty()) {
        let kept =
            KEPT.iter().find_map(|(name, purpose)| Some((purpose, word.strip_prefix(name)?)));
        match kept {
            Some((purpose, text)) => given.kept.push(RetiredKey { purpose, bytes: bytes(text)? }),
            None => given.keys.push(MasterKey::new(bytes(word)?)),
        }
    }
    if given.keys.is_empty() { Err(LoadError::Malformed) } else { Ok(given) }
}

/// The keys of the file, or `None` when there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<GivenKeys>, LoadError> {
    match fs::read_to_string(path) {
        Ok(text) => {
            warn_if_readable_by_others(path);
            let keys = parse(&Zeroizing::new(text));
            keys.map(Some).map_err(|_| LoadError::Damaged { path: path.display().to_string() })
        }
        // Bytes that are no text: a bit that was turned over makes such.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(LoadError::Damaged { path: path.display().to_string() })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LoadError::File { path: path.display().to_string(), source }),
    }
}

/// Whether there is a file, of whatever content.
pub(super) fn is_there(path: &Path) -> Result<bool, LoadError> {
    path.try_exists().map_err(|source| LoadError::File { path: path.display().to_string(), source })
}

/// Makes a key and its file.
pub(super) fn create(path: &Path, random: &dyn Random) -> Result<(), LoadError> {
    let mut bytes = Zeroizing::new([0; 32]);
    random.fill(bytes.as_mut());
    let text = Zeroizing::new(STANDARD.encode(bytes.as_ref()) + "\n");
    write_durably(path, text.as_bytes())
        .map_err(|source| LoadError::File { path: path.display().to_string(), source })
}

/// Puts a text in the place of the file, all of it or nothing.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(folder)?.sync_all()
}

/// Writes beside the place and links the whole file into it, which never replaces a key that
/// another process put there meanwhile.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        match fs::hard_link(&draft, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    })();
    fs::remove_file(&draft).ok();
    written?;
    File::open(folder)?.sync_all()
}

fn warn_if_readable_by_others(path: &Path) {
    let others = fs::metadata(path).is_ok_and(|it| it.permissions().mode() & 0o077 != 0);
    if others {
        tracing::warn!(path = %path.display(), "the master key file can be read by other users: chmod 600");
    }
}
