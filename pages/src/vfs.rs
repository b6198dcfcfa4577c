//! A layer between SQLite and the files of the system. It changes nothing but this: a page that is written to
//! a database gets its checksum, and one that is read is compared with it.
//!
//! Logs, journals and temporary files go straight to the system: SQLite has checksums of its own for the first
//! two. SQLite owns the memory of a file, in which ours stands first and the system's behind it.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    mem::size_of,
    ptr, slice,
    sync::OnceLock,
};

use rusqlite::ffi::{
    self, SQLITE_CORRUPT, SQLITE_FCNTL_CKPT_START, SQLITE_IOCAP_SUBPAGE_READ, SQLITE_IOERR,
    SQLITE_OK, SQLITE_OPEN_MAIN_DB, sqlite3_file, sqlite3_io_methods, sqlite3_vfs,
};

use crate::page::{self, HEAD, RESERVED};

/// Says that a file that is still empty gets checksums: above the numbers that SQLite has.
pub const EXPECT_SUMS: c_int = 0x7064_0001;

/// The name of the layer.
pub const NAME: &CStr = c"tidegate-pages";

/// A database. The system's own file stands behind it.
#[repr(C)]
struct File {
    base: sqlite3_file,
    /// Lives as long as the file. Null where it has none.
    name: *const c_char,
    /// The head of the file says so.
    has_sums: bool,
}

/// The layer below, and ours. Never freed, as SQLite asks.
struct Layers {
    system: *mut sqlite3_vfs,
    registered: c_int,
}

// SAFETY: what the pointer leads to belongs to SQLite, is never freed, and may be used from each thread.
unsafe impl Send for Layers {}
// SAFETY: as above.
unsafe impl Sync for Layers {}

static LAYERS: OnceLock<Layers> = OnceLock::new();

/// Makes it the default of the process, so that no connection goes round it. What SQLite answered.
pub fn register() -> c_int {
    layers().registered
}

fn layers() -> &'static Layers {
    LAYERS.get_or_init(|| {
        // SAFETY: both may be called at any time, from each thread.
        let system = unsafe {
            ffi::sqlite3_initialize();
            ffi::sqlite3_vfs_find(ptr::null())
        };
        if system.is_null() {
            return Layers { system, registered: SQLITE_IOERR };
        }
        // SAFETY: SQLite gave it, and never changes it but for `pNext`.
        let mut ours = unsafe { *system };
        // What is not ours is done by the same functions as in the layer below.
        ours.zName = NAME.as_ptr();
        ours.szOsFile += size_of::<File>() as c_int;
        ours.pNext = ptr::null_mut();
        ours.xOpen = Some(open);
        let ours = Box::leak(Box::new(ours));
        // SAFETY: it lives for ever.
        let registered = unsafe { ffi::sqlite3_vfs_register(ours, 1) };
        Layers { system, registered }
    })
}

/// The system's file behind ours.
///
/// # Safety
/// `file` must have been opened by [`open`], as a database.
unsafe fn inner(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: SQLite reserved `szOsFile` bytes for both.
    unsafe { file.byte_add(size_of::<File>()) }
}

/// Calls a method of the system's file, or answers `$otherwise` where it has none.
macro_rules! below {
    ($file:ident.$method:ident($($argument:expr),*), $otherwise:expr) => {{
        // SAFETY: SQLite calls methods of open files only, with arguments that are as the method wants them.
        unsafe {
            let inner = inner($file);
            match (*(*inner).pMethods).$method {
                Some(method) => method(inner $(, $argument)*),
                None => $otherwise,
            }
        }
    }};
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let system = layers_below();
    // SAFETY: `system` lives for ever.
    let Some(open) = (unsafe { (*system).xOpen }) else { return SQLITE_IOERR };
    if flags & SQLITE_OPEN_MAIN_DB == 0 || name.is_null() {
        // SAFETY: there is more room than the system asks for.
        return unsafe { open(system, name, file, flags, out) };
    }
    let ours = file.cast::<File>();
    // SAFETY: SQLite gives us room for both files, aligned for pointers, and nobody else has them yet.
    unsafe {
        ours.write(File { base: sqlite3_file { pMethods: ptr::null() }, name, has_sums: false });
        let behind = inner(file);
        (*behind).pMethods = ptr::null();
        let result = open(system, name, behind, flags, out);
        // SQLite closes what has methods, even if it could not be opened.
        if !(*behind).pMethods.is_null() {
            (*ours).base.pMethods = &raw const METHODS;
            let reserved = ffi::sqlite3_uri_int64(name, c"reserve".as_ptr(), 0);
            if result == SQLITE_OK && reserved == i64::from(RESERVED) {
                expect_sums(file);
            }
        }
        result
    }
}

/// [`open`] is called by SQLite while [`layers`] is filled at the earliest after it was registered.
fn layers_below() -> *mut sqlite3_vfs {
    layers().system
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    // Without `xFetch`: what SQLite maps into memory, nobody could compare.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

unsafe extern "C" fn read(
    file: *mut sqlite3_file,
    bytes: *mut c_void,
    count: c_int,
    at: i64,
) -> c_int {
    let result = below!(file.xRead(bytes, count, at), SQLITE_IOERR);
    let (Ok(count), Ok(at)) = (usize::try_from(count), u64::try_from(at)) else { return result };
    // What is short stands behind the end of the file.
    if result != SQLITE_OK {
        return result;
    }
    // SAFETY: the system just filled so many bytes, and SQLite uses a file on one thread at a time.
    let (read, ours) =
        unsafe { (slice::from_raw_parts(bytes.cast::<u8>(), count), &mut *file.cast::<File>()) };
    if at == 0 {
        ours.has_sums = page::has_sums(read).unwrap_or(ours.has_sums);
    }
    if page::is_page(count, at) && !page::judge(read, at, ours.has_sums) {
        // SAFETY: the name lives as long as the file, and ends with a zero.
        let name = unsafe { CStr::from_ptr(ours.name) }.to_string_lossy();
        let page = at / count as u64 + 1;
        tracing::error!(file = %name, page, "a page is not what was written: the disk has damaged it");
        return SQLITE_CORRUPT;
    }
    SQLITE_OK
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    bytes: *const c_void,
    count: c_int,
    at: i64,
) -> c_int {
    /// Longer pages than those of every file of ours get a buffer of their own.
    const USUAL: usize = 4096;
    if let (Ok(count), Ok(place)) = (usize::try_from(count), u64::try_from(at)) {
        // SAFETY: SQLite gives so many bytes to be written, and uses a file on one thread at a time.
        let (page, ours) = unsafe {
            (slice::from_raw_parts(bytes.cast::<u8>(), count), &mut *file.cast::<File>())
        };
        if place == 0 {
            ours.has_sums = page::has_sums(page).unwrap_or(ours.has_sums);
        }
        if ours.has_sums && page::is_page(count, place) {
            let (mut usual, mut other) = ([0; USUAL], Vec::new());
            let sealed = if count == USUAL {
                &mut usual[..]
            } else {
                other.resize(count, 0);
                &mut other[..]
            };
            sealed.copy_from_slice(page);
            page::seal(sealed, place);
            return below!(
                file.xWrite(sealed.as_ptr().cast(), sealed.len() as c_int, at),
                SQLITE_IOERR
            );
        }
    }
    below!(file.xWrite(bytes, count, at), SQLITE_IOERR)
}

/// An empty file gets checksums, though its head may be written after other pages.
///
/// # Safety
/// `file` must have been opened by [`open`], as a database.
unsafe fn expect_sums(file: *mut sqlite3_file) -> c_int {
    let mut size = 0;
    let result = below!(file.xFileSize(&raw mut size), SQLITE_IOERR);
    if result == SQLITE_OK && size == 0 {
        // SAFETY: SQLite uses a file on one thread at a time.
        unsafe { (*file.cast::<File>()).has_sums = true };
    }
    result
}

unsafe extern "C" fn file_control(
    file: *mut sqlite3_file,
    what: c_int,
    with: *mut c_void,
) -> c_int {
    if what == EXPECT_SUMS {
        // SAFETY: SQLite asks files that are open.
        return unsafe { expect_sums(file) };
    }
    // Somebody else may have made the file since this one was opened.
    if what == SQLITE_FCNTL_CKPT_START {
        let mut head = [0_u8; HEAD];
        let result = below!(file.xRead(head.as_mut_ptr().cast(), HEAD as c_int, 0), SQLITE_IOERR);
        // SAFETY: SQLite uses a file on one thread at a time.
        let ours = unsafe { &mut *file.cast::<File>() };
        if result == SQLITE_OK {
            ours.has_sums = page::has_sums(&head).unwrap_or(ours.has_sums);
        }
    }
    below!(file.xFileControl(what, with), ffi::SQLITE_NOTFOUND)
}

unsafe extern "C" fn device_characteristics(file: *mut sqlite3_file) -> c_int {
    // Parts of pages are not read: nobody could compare them.
    below!(file.xDeviceCharacteristics(), 0) & !SQLITE_IOCAP_SUBPAGE_READ
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    below!(file.xClose(), SQLITE_OK)
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: i64) -> c_int {
    below!(file.xTruncate(size), SQLITE_IOERR)
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    below!(file.xSync(flags), SQLITE_IOERR)
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, size: *mut i64) -> c_int {
    below!(file.xFileSize(size), SQLITE_IOERR)
}

unsafe extern "C" fn lock(file: *mut sqlite3_file, how: c_int) -> c_int {
    below!(file.xLock(how), SQLITE_IOERR)
}

unsafe extern "C" fn unlock(file: *mut sqlite3_file, how: c_int) -> c_int {
    below!(file.xUnlock(how), SQLITE_IOERR)
}

unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, out: *mut c_int) -> c_int {
    below!(file.xCheckReservedLock(out), SQLITE_IOERR)
}

unsafe extern "C" fn sector_size(file: *mut sqlite3_file) -> c_int {
    below!(file.xSectorSize(), 4096)
}

unsafe extern "C" fn shm_map(
    file: *mut sqlite3_file,
    region: c_int,
    bytes: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    below!(file.xShmMap(region, bytes, extend, out), SQLITE_IOERR)
}

unsafe extern "C" fn shm_lock(
    file: *mut sqlite3_file,
    first: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    below!(file.xShmLock(first, count, flags), SQLITE_IOERR)
}

unsafe extern "C" fn shm_barrier(file: *mut sqlite3_file) {
    below!(file.xShmBarrier(), ())
}

unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, delete: c_int) -> c_int {
    below!(file.xShmUnmap(delete), SQLITE_OK)
}
