# For Nix: `nix build`, `nix run . -- demo`. Not evaluated yet: no Nix where this was written. `nix flake lock` makes
# flake.lock, which pins nixpkgs.
{
  description = "Presents a disk image as a read-only block device, with I/O errors where the original disk had bad sectors";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" "x86_64-darwin" "aarch64-darwin" ];
      each = make: nixpkgs.lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
      manifest = builtins.fromTOML (builtins.readFile ./Cargo.toml);
      package =
        pkgs:
        pkgs.rustPlatform.buildRustPackage {
          pname = "cdi";
          version = manifest.workspace.package.version;
          src = self;
          cargoLock.lockFile = ./Cargo.lock;
          nativeBuildInputs = [ pkgs.installShellFiles ];
          # The integration tests mount, and compare with other programs: .ci/run. Here, the unit tests.
          cargoTestFlags = [ "--workspace" "--exclude" "cdi-fskit" "--exclude" "cdi-ffi" "--lib" "--bins" ];
          postInstall = ''
            $out/bin/cdi man man
            installManPage man/*.1
            for shell in bash zsh fish; do $out/bin/cdi completions $shell > cdi.$shell; done
            installShellCompletion cdi.{bash,zsh,fish}
          '' + pkgs.lib.optionalString pkgs.stdenv.hostPlatform.isLinux ''
            $out/bin/cdi man --section 8 man8
            installManPage man8/mount.cdi.8
            # mount(8) of NixOS finds it with `system.fsPackages = [ cdi ];`.
            ln -s cdi $out/bin/mount.cdi
            ln -s cdi $out/bin/mount.fuse.cdi
            install -Dm644 packaging/desktop/cdi.xml $out/share/mime/packages/cdi.xml
            install -Dm644 systemd/cdi.service $out/lib/systemd/user/cdi.service
            substituteInPlace $out/lib/systemd/user/cdi.service --replace-fail /usr/local/bin/cdi $out/bin/cdi
          '';
          meta = {
            description = manifest.package.description;
            # PLACEHOLDER (RELEASE.md): the owner of the repository.
            homepage = "https://github.com/OWNER/cdi";
            # End of the placeholders.
            license = with pkgs.lib.licenses; [ mit asl20 ];
            mainProgram = "cdi";
            platforms = systems;
          };
        };
    in
    {
      packages = each (pkgs: rec {
        cdi = package pkgs;
        default = cdi;
      });
      devShells = each (pkgs: {
        default = pkgs.mkShell { packages = [ pkgs.cargo pkgs.rustc pkgs.clippy pkgs.rustfmt ]; };
      });
    };
}
