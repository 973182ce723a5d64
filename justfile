# The commands of CONTRIBUTING.md. Without `just`, read them here.

# What CI checks first.
check:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings
    cargo clippy -p cdi-fskit -p cdi-ffi -p cdi-python --all-targets -- -D warnings

# All tests of the program and its crates.
test *ARGS:
    cargo test {{ ARGS }}

# Only the unit tests, in seconds.
quick:
    cargo test --workspace --exclude cdi-fskit --exclude cdi-python --lib --bins

# The long campaigns too: each damaged image many times more.
long:
    CDI_LONG=1 cargo test

# The FSKit extension, and everything for macOS, built on Linux.
mac:
    cargo test -p cdi-fskit
    .ci/darwin

# The reference in docs/CLI.md, from the program's help.
docs:
    CDI_UPDATE_DOCS=1 cargo test --test all -- docs::cli
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

# The C library, into PREFIX.
install-lib PREFIX="/usr/local":
    crates/cdi-ffi/install.sh {{ PREFIX }}

# The Python package, into target/wheels.
wheel:
    maturin build --release -m crates/cdi-python/Cargo.toml

# What a release needs (RELEASE.md).
release-check: check test docs
    cargo deny check
    cargo package --workspace --exclude cdi-fskit --exclude cdi-ffi --exclude cdi-python --no-verify
