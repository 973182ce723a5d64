# Homebrew's formula for cdi, built from source. RELEASE.md says when to fill in the placeholders and where this goes;
# packaging/homebrew/check.rb tries it without Homebrew. `brew` itself has not run it yet.
class Cdi < Formula
  desc "Read-only block devices from disk images, bad sectors included"
  # PLACEHOLDERS, all of them here (RELEASE.md): the owner of the repository, the version, the checksum of the archive.
  homepage "https://github.com/OWNER/cdi"
  url "https://github.com/OWNER/cdi/archive/refs/tags/v0.1.0.tar.gz"
  sha256 "0000000000000000000000000000000000000000000000000000000000000000"
  head "https://github.com/OWNER/cdi.git", branch: "main"
  # End of the placeholders.
  license any_of: ["MIT", "Apache-2.0"]

  depends_on "rust" => :build

  def install
    system "cargo", "install", *std_cargo_args
    generate_completions_from_executable(bin/"cdi", "completions", shells: [:bash, :zsh, :fish])
    man1.mkpath
    system bin/"cdi", "man", man1
    # `brew services` takes cdi's own files: its description of a service has no word for the time that detaching needs,
    # nor for the children that must outlive a service that dies.
    inreplace "launchd/org.cdimg.cdi.plist" do |s|
      s.gsub! "/usr/local/bin/cdi", opt_bin/"cdi"
      s.gsub! "/tmp/cdi.log", var/"log/cdi.log"
    end
    inreplace "systemd/cdi.service", "/usr/local/bin/cdi", opt_bin/"cdi"
    prefix.install "launchd/org.cdimg.cdi.plist", "systemd/cdi.service"
  end

  def caveats
    <<~EOS
      cdi needs no driver and no root on macOS; `cdi doctor` shows what this Mac has.

      The service attaches the images that ~/.config/cdi/service.json lists. Start it with
        brew services start cdi
      or with `cdi service install` and `cdi service start`: both are the same LaunchAgent, org.cdimg.cdi.
    EOS
  end

  service do
    name macos: "org.cdimg.cdi", linux: "cdi"
  end

  test do
    (testpath/"disk.raw").binwrite "cdi" * 512
    (testpath/"disk.map").write "0x0 + 1\n0x0 0x200 +\n0x200 0x200 -\n0x400 0x200 +\n"
    shell_output("#{bin}/cdi create disk.raw disk.cdimg --mapfile disk.map", 4)
    assert_match "\"first_sector\": 1", shell_output("#{bin}/cdi map --bad --json disk.cdimg")
    shell_output("#{bin}/cdi verify disk.cdimg")
    assert_match version.to_s, shell_output("#{bin}/cdi --version")
  end
end
