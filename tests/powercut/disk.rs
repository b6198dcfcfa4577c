//! A disk that forgets: what is left of a folder when the power goes.
//!
//! It is stricter than any file system that people run. A write is safe only when a sync of its file
//! was asked for after it and granted; a name only when its folder was synced. Of the rest, a cut
//! keeps nothing, everything, or any part, torn where it hurts.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use crate::crash::random::Random;

/// One entry of the log. Paths are relative to the folder; the folder itself is the empty path.
#[derive(Debug)]
pub enum Entry<'a> {
    Open {
        handle: u64,
        path: PathBuf,
        create: bool,
        empty: bool,
    },
    Write {
        handle: u64,
        offset: u64,
        data: &'a [u8],
    },
    Truncate {
        handle: u64,
        length: u64,
    },
    Grow {
        handle: u64,
        length: u64,
    },
    SyncAsked {
        handle: u64,
        number: u64,
    },
    SyncGranted {
        number: u64,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    /// A second name for the same file.
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    MakeFolder {
        path: PathBuf,
    },
}

/// What a cut keeps of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Nothing,
    Everything,
    /// Each write or not, by chance; some of them in part; of the names, the first few.
    Some,
    /// Everything of the files whose names begin so, and nothing of the others: what a disk does that
    /// happened to write these first.
    Only(&'static str),
}

#[derive(Debug, Default)]
pub struct Disk {
    files: Vec<File>,
    /// What a running program sees, and what is on the disk for sure.
    names: BTreeMap<PathBuf, Node>,
    safe_names: BTreeMap<PathBuf, Node>,
    /// Names that no sync of their folder has made safe, oldest first.
    unsafe_names: Vec<(u64, Naming)>,
    handles: HashMap<u64, Target>,
    /// Syncs that were asked for: of what, and at which tick.
    asked: HashMap<u64, (Target, u64)>,
    /// Counts entries.
    tick: u64,
    /// Syncs of files that end so are not believed: the bug that the test plants.
    distrusted: Option<&'static str>,
    /// Syncs that were believed.
    pub syncs: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Folder,
    File(usize),
}

#[derive(Clone, Debug)]
enum Target {
    Folder(PathBuf),
    File(usize),
    /// A file whose syncs are not believed.
    Distrusted(usize),
}

#[derive(Clone, Debug)]
enum Naming {
    Put(PathBuf, Node),
    /// Whole or not at all, as POSIX has it.
    Move(PathBuf, PathBuf, Node),
    Remove(PathBuf),
}

#[derive(Debug, Default)]
struct File {
    safe: Vec<u8>,
    /// What was done to it since, with the tick of each.
    unsafe_changes: Vec<(u64, Change)>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Resize { length: usize },
    Grow { length: usize },
}

impl Disk {
    /// Nothing that was written to files with this ending is ever safe.
    pub fn distrusting(ending: &'static str) -> Self {
        Self { distrusted: Some(ending), ..Self::default() }
    }

    pub fn apply(&mut self, entry: Entry) {
        self.tick += 1;
        match entry {
            Entry::Open { handle, path, create, empty } => self.open(handle, path, create, empty),
            Entry::Write { handle, offset, data } => {
                self.change(handle, Change::Write { offset: offset as usize, data: data.to_vec() });
            }
            Entry::Truncate { handle, length } => {
                self.change(handle, Change::Resize { length: length as usize });
            }
            Entry::Grow { handle, length } => {
                self.change(handle, Change::Grow { length: length as usize });
            }
            Entry::SyncAsked { handle, number } => {
                self.asked.insert(number, (self.handles[&handle].clone(), self.tick));
            }
            Entry::SyncGranted { number } => {
                if let Some((target, tick)) = self.asked.remove(&number) {
                    self.sync(&target, tick);
                }
            }
            Entry::Rename { from, to } => {
                let node = self.names[&from];
                self.name(Naming::Move(from, to, node));
            }
            Entry::Link { from, to } => {
                let node = self.names[&from];
                self.name(Naming::Put(to, node));
            }
            Entry::Remove { path } => self.name(Naming::Remove(path)),
            Entry::MakeFolder { path } => {
                // The folder itself was there before the program started, as far as we care.
                if path != Path::new("") {
                    self.name(Naming::Put(path, Node::Folder));
                }
            }
        }
    }

    fn open(&mut self, handle: u64, path: PathBuf, create: bool, empty: bool) {
        let node = match self.names.get(&path) {
            Some(node) => *node,
            None if create => {
                self.files.push(File::default());
                let node = Node::File(self.files.len() - 1);
                self.name(Naming::Put(path.clone(), node));
                node
            }
            None => Node::Folder,
        };
        let target = match node {
            Node::Folder => Target::Folder(path),
            Node::File(file) => match self.distrusted {
                Some(ending) if path.to_string_lossy().ends_with(ending) => {
                    Target::Distrusted(file)
                }
                Some(_) | None => Target::File(file),
            },
        };
        self.handles.insert(handle, target);
        if empty {
            self.change(handle, Change::Resize { length: 0 });
        }
    }

    fn change(&mut self, handle: u64, change: Change) {
        match self.handles[&handle] {
            Target::File(file) | Target::Distrusted(file) => {
                self.files[file].unsafe_changes.push((self.tick, change));
            }
            Target::Folder(ref path) => panic!("{} is a folder", path.display()),
        }
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.unsafe_names.push((self.tick, naming));
    }

    /// What was done before the tick is safe now.
    fn sync(&mut self, target: &Target, tick: u64) {
        match target {
            Target::Distrusted(_) => return,
            Target::File(file) => {
                let File { safe, unsafe_changes } = &mut self.files[*file];
                let count = unsafe_changes.partition_point(|(at, _)| *at < tick);
                for (_, change) in unsafe_changes.drain(..count) {
                    change.apply(safe);
                }
            }
            Target::Folder(folder) => {
                let mut kept = Vec::new();
                for (at, naming) in self.unsafe_names.drain(..) {
                    if at < tick && naming.path().parent() == Some(folder) {
                        naming.apply(&mut self.safe_names);
                    } else {
                        kept.push((at, naming));
                    }
                }
                self.unsafe_names = kept;
            }
        }
        self.syncs += 1;
    }

    /// Bytes that were written and are not safe.
    pub fn at_risk(&self) -> usize {
        let changes = self.files.iter().flat_map(|file| &file.unsafe_changes);
        changes.map(|(_, change)| change.size()).sum()
    }

    /// The folder as it is found when the power is back, written to another place.
    pub fn cut(&self, cut: Cut, random: &mut Random, to: &Path) {
        let mut names = self.safe_names.clone();
        let count = match cut {
            Cut::Nothing => 0,
            Cut::Everything => self.unsafe_names.len(),
            Cut::Some => random.below(self.unsafe_names.len() as u64 + 1) as usize,
            Cut::Only(_) => self.unsafe_names.len(),
        };
        let kept = self.unsafe_names[..count].iter().filter(|(_, it)| cut.keeps(it.path()));
        for (_, naming) in kept {
            naming.apply(&mut names);
        }
        std::fs::create_dir_all(to).unwrap();
        // A folder stands before what is in it.
        for (path, node) in &names {
            let parent = path.parent().unwrap();
            if parent != Path::new("") && names.get(parent) != Some(&Node::Folder) {
                // Its folder is lost, and everything in it.
                continue;
            }
            match node {
                Node::Folder => std::fs::create_dir(to.join(path)).unwrap(),
                Node::File(file) => {
                    let of_file = match cut {
                        Cut::Only(_) if cut.keeps(path) => Cut::Everything,
                        Cut::Only(_) => Cut::Nothing,
                        Cut::Nothing | Cut::Everything | Cut::Some => cut,
                    };
                    let content = self.files[*file].after(of_file, random);
                    std::fs::write(to.join(path), content).unwrap();
                }
            }
        }
    }
}

impl Cut {
    /// Whether what happened to a file of this name may be kept at all.
    fn keeps(self, path: &Path) -> bool {
        match self {
            Self::Only(start) => path.to_string_lossy().starts_with(start),
            Self::Nothing | Self::Everything | Self::Some => true,
        }
    }
}

impl Naming {
    fn path(&self) -> &Path {
        match self {
            Self::Put(path, _) | Self::Move(_, path, _) | Self::Remove(path) => path,
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Put(path, node) => drop(names.insert(path.clone(), *node)),
            Self::Move(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
            Self::Remove(path) => drop(names.remove(path)),
        }
    }
}

impl File {
    fn after(&self, cut: Cut, random: &mut Random) -> Vec<u8> {
        let mut content = self.safe.clone();
        for (_, change) in &self.unsafe_changes {
            match cut {
                // For a file, it is one of the others.
                Cut::Nothing | Cut::Only(_) => break,
                Cut::Everything => change.apply(&mut content),
                Cut::Some => match random.below(4) {
                    0 | 1 => change.apply(&mut content),
                    2 => change.torn(random).apply(&mut content),
                    _ => (),
                },
            }
        }
        content
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => {
                let end = offset + data.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(data);
            }
            Self::Resize { length } => content.resize(*length, 0),
            Self::Grow { length } => content.resize(content.len().max(*length), 0),
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Write { data, .. } => data.len(),
            Self::Resize { .. } | Self::Grow { .. } => 0,
        }
    }

    /// The first sectors of a write, without the rest.
    fn torn(&self, random: &mut Random) -> Self {
        const SECTOR: usize = 512;
        match self {
            Self::Write { offset, data } => {
                let sectors = random.below((data.len() / SECTOR) as u64 + 1) as usize;
                Self::Write { offset: *offset, data: data[..sectors * SECTOR].to_vec() }
            }
            Self::Resize { .. } | Self::Grow { .. } => self.clone(),
        }
    }
}
