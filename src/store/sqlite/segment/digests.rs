//! Digests of segments that an earlier version sealed, for the manifest: made beside everything else, a piece at a
//! time, so that `tidegate check` finds what changes in them from then on.

use std::{sync::Arc, time::Duration};

use super::segments::{Segment, Segments};
use crate::store::{
    Result,
    sqlite::{
        error::of_file,
        folder::manifest::{ManifestFile, Summing},
        lock,
    },
};

pub struct Digests {
    segments: Arc<Segments>,
    manifest: Arc<ManifestFile>,
    /// The one whose file is being read.
    current: Option<(Arc<Segment>, Summing)>,
    /// Nothing is left to do.
    is_done: bool,
}

impl Digests {
    /// 40 MB/s at most, and only while nobody asks for anything else.
    const PIECE: usize = 4 << 20;
    const TIMEOUT: Duration = Duration::from_millis(100);

    pub fn new(segments: Arc<Segments>, manifest: Arc<ManifestFile>) -> Self {
        Self { segments, manifest, current: None, is_done: false }
    }

    /// When it is to go on; `None` once all have one.
    pub fn timeout(&self) -> Option<Duration> {
        (!self.is_done).then_some(Self::TIMEOUT)
    }

    /// Reads a piece.
    pub fn go_on(&mut self) -> Result<()> {
        let (segment, mut summing) = match self.current.take() {
            Some(current) => current,
            None => {
                let known = self.manifest.known();
                let all = self.segments.all();
                // From old to new. Segments that are sealed from now on get theirs then.
                let next =
                    all.iter().find(|it| it.is_sealed() && known.sum_of(it.first()).is_none());
                let Some(segment) = next else {
                    self.is_done = true;
                    return Ok(());
                };
                (segment.clone(), Summing::begin(segment.path()).map_err(of_file)?)
            }
        };
        match summing.go_on(Self::PIECE).map_err(of_file)? {
            None => self.current = Some((segment, summing)),
            Some(sum) => {
                // What is promised is on disk.
                summing.file.sync_all().map_err(of_file)?;
                let _replacing = lock(&self.manifest.replacing);
                if !segment.is_retired() {
                    self.manifest.change(|it| it.seal(segment.first(), Some(sum)))?;
                    tracing::debug!(first = segment.first().0, "a segment has a digest");
                }
            }
        }
        Ok(())
    }
}
