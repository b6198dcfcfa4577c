//! The clients themselves, as their registries have them: installed by `tests/clients/install.sh`,
//! run by `tests/clients/*`, with nothing changed but the host.
