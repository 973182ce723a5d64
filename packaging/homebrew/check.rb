#!/usr/bin/env ruby
# Tries the formula without Homebrew: a small stand-in for what it uses of Formula, a prefix in a temporary directory, and
# a built program in place of `cargo install`. Everything else is done for real: completions, man pages, the files of the
# service, and the formula's own test.
#
#     ruby packaging/homebrew/check.rb PATH/TO/cdi
#
# It cannot show that Homebrew accepts the formula: `brew audit --new --formula` and `brew install --build-from-source`
# do that, on a Mac.

require "fileutils"
require "open3"
require "pathname"
require "tmpdir"

PROGRAM = Pathname(ARGV.fetch(0)).realpath
ROOT = Pathname(__dir__).parent.parent.realpath

def fail_with(what)
  warn "cdi.rb: #{what}"
  exit 1
end

# Homebrew's additions to Pathname.
class Pathname
  def install(*files)
    mkpath
    files.each { |file| FileUtils.cp(file, self) }
  end
end

# What Homebrew passes to the block of inreplace. A replacement that finds nothing is an error.
class InreplaceString
  attr_reader :text

  def initialize(text)
    @text = text
  end

  def gsub!(before, after)
    fail_with("inreplace: there is no #{before}") unless @text.include?(before)
    @text = @text.gsub(before, after.to_s)
  end
end

class Formula
  class << self
    attr_reader :fields, :dependencies, :service_block, :test_block

    [:desc, :homepage, :url, :sha256, :license].each do |field|
      define_method(field) { |value| (@fields ||= {})[field] = value }
    end

    def head(url, branch:)
      (@fields ||= {})[:head] = [url, branch]
    end

    def depends_on(what)
      (@dependencies ||= []) << what
    end

    def service(&block)
      @service_block = block
    end

    def test(&block)
      @test_block = block
    end
  end

  attr_reader :ran

  def initialize(cellar)
    @cellar = cellar
    @ran = []
  end

  def version = self.class.fields[:url][/v(\d+\.\d+\.\d+)\.tar\.gz\z/, 1]
  def prefix = @cellar/"Cellar/cdi/#{version}"
  def bin = prefix/"bin"
  def man1 = prefix/"share/man/man1"
  def opt_bin = @cellar/"opt/cdi/bin"
  def var = @cellar/"var"
  def testpath = @cellar/"test"
  def std_cargo_args = ["--locked", "--root=#{prefix}", "--path=."]

  def system(*command)
    command = command.map(&:to_s)
    @ran << command
    if command[0, 2] == ["cargo", "install"]
      fail_with("cargo install without std_cargo_args") unless command.drop(2) == std_cargo_args
      bin.mkpath
      FileUtils.cp(PROGRAM, bin/"cdi")
    else
      Kernel.system(*command) || fail_with("failed: #{command.join(" ")}")
    end
  end

  def generate_completions_from_executable(*command, shells:)
    places = { bash: "etc/bash_completion.d/cdi", zsh: "share/zsh/site-functions/_cdi", fish: "share/fish/vendor_completions.d/cdi.fish" }
    shells.each do |shell|
      text, status = Open3.capture2(*command.map(&:to_s), shell.to_s)
      fail_with("no completions for #{shell}") unless status.success? && text.include?("cdi")
      file = prefix/places.fetch(shell)
      file.dirname.mkpath
      file.write(text)
    end
  end

  def inreplace(file, before = nil, after = nil)
    text = InreplaceString.new(File.read(file))
    before ? text.gsub!(before, after) : yield(text)
    File.write(file, text.text)
  end

  def shell_output(command, code = 0)
    text, status = Open3.capture2(command)
    fail_with("exit code #{status.exitstatus} instead of #{code}: #{command}") unless status.exitstatus == code
    text
  end

  def assert_match(wanted, text)
    fail_with("no #{wanted.inspect} in #{text.inspect}") unless text.include?(wanted)
  end
end

# The block of the service.
class ServiceNames
  attr_reader :names

  def name(**names)
    @names = names
  end
end

load(File.join(__dir__, "cdi.rb"))
fields = Cdi.fields
[:desc, :homepage, :url, :sha256, :license, :head].each { |field| fail_with("no #{field}") unless fields[field] }
# What `brew audit` says about these.
fail_with("desc is longer than 80 characters") if "cdi: #{fields[:desc]}".length > 80
fail_with("desc ends with a full stop, or begins with an article or the name") if fields[:desc] =~ /\.\z|\A(an?|the|cdi)\b/i
fail_with("sha256 is none") unless fields[:sha256].match?(/\A\h{64}\z/)
cargo = (ROOT/"Cargo.toml").read[/^version = "(.*)"/, 1]
placeholder = fields[:url].include?("OWNER") && fields[:sha256].match?(/\A0+\z/)
filled = !fields.values.flatten.join.include?("OWNER") && !fields[:sha256].match?(/\A0+\z/)
fail_with("some placeholders are filled in, others are not") unless placeholder || filled

Dir.mktmpdir("cdi-homebrew") do |dir|
  dir = Pathname(dir)
  formula = Cdi.new(dir)
  fail_with("version #{formula.version}, but Cargo.toml has #{cargo}") unless formula.version == cargo
  # Homebrew builds in a copy of the source.
  source = dir/"source"
  source.mkpath
  ["launchd", "systemd"].each { |name| FileUtils.cp_r(ROOT/name, source) }
  Dir.chdir(source) { formula.install }

  service = ServiceNames.new
  service.instance_eval(&Cdi.service_block)
  files = {
    "bin/cdi" => nil,
    "share/man/man1/cdi.1" => "cdi",
    "share/man/man1/cdi-attach.1" => "attach",
    # Where `brew services` looks (Formula#launchd_service_path, #systemd_service_path).
    "#{service.names.fetch(:macos)}.plist" => "<string>#{formula.opt_bin}/cdi</string>",
    "#{service.names.fetch(:linux)}.service" => "ExecStart=#{formula.opt_bin}/cdi service run",
  }
  files.each do |name, text|
    file = formula.prefix/name
    fail_with("#{name} is not installed") unless file.exist?
    fail_with("#{name} does not contain #{text}") if text && !file.read.include?(text)
  end
  plist = (formula.prefix/"#{service.names[:macos]}.plist").read
  fail_with("the label is not the name of the service") unless plist.include?("<string>#{service.names[:macos]}</string>")
  fail_with("a path of another installation is left") if plist.match?(%r{<string>(/usr/local|/tmp/cdi\.log)})

  formula.testpath.mkpath
  Dir.chdir(formula.testpath) { formula.instance_eval(&Cdi.test_block) }
  fail_with("there are no caveats") unless formula.caveats.include?("brew services start cdi")
end
puts "packaging/homebrew/cdi.rb: installed and tested#{placeholder ? ", with placeholders" : ""}"
