//! The program: everything is in the library, so that tests can reach it.

/// What an event allocates in one thread, another drops: the system's allocator spends a tenth of all
/// processor time on that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    tidegate::cli::main()
}
