# Load a formula without Homebrew, and print what it says, in order, as JSON: ruby load.rb FORMULA [FOLDER]
# With the folder that has hwsigner's programs, run its install, but for what Homebrew does, and its test.
require "json"
require "open3"
require "pathname"
require "tmpdir"

module Language
  module Python
    # Homebrew's module, whose method makes a virtual environment.
    module Virtualenv
      def virtualenv_install_with_resources = @done << "virtualenv_install_with_resources"
    end
  end
end

# What a formula is written in.
class Formula
  class << self
    attr_reader :formula, :test_block

    def said = @said ||= []

    [:desc, :homepage, :url, :sha256, :license, :depends_on].each do |part|
      define_method(part) { |value| said << [part, value] }
    end

    def resource(name, &block)
      file = Class.new(Formula, &block).said
      said << [:resource, { name: name, **file.to_h }]
    end

    def test(&block)
      said << [:test, nil]
      @test_block = block
    end

    def method_added(name)
      super
      said << [name, nil]
    end

    def inherited(formula)
      super
      @formula ||= formula
    end
  end

  attr_reader :bin, :testpath, :version

  def initialize(programs, testpath)
    @done = []
    @bin = Pathname(programs)
    @testpath = Pathname(testpath)
    @version = self.class.said.assoc(:url).last[/-(\d[^-]*)\.tar\.gz\z/, 1]
  end

  def generate_completions_from_executable(program, *arguments)
    ["bash", "zsh", "fish"].each { |shell| shell_output([program, *arguments, shell].join(" ")) }
    @done << "completions"
  end

  def shell_output(command, status = 0)
    output, result = Open3.capture2(environment, command)
    raise "#{command}: status #{result.exitstatus}" if result.exitstatus != status

    output
  end

  def system(*command)
    Kernel.system(environment, *command.map(&:to_s), out: File::NULL) || raise("#{command.join(" ")} failed")
  end

  def assert_equal(wanted, found) = wanted == found || raise("#{found.inspect} is not #{wanted.inspect}")
  def assert_match(wanted, found) = found.match?(wanted) || raise("#{found.inspect} has no #{wanted.inspect}")

  private

  def environment = { "HOME" => testpath.to_s, "XDG_RUNTIME_DIR" => testpath.to_s }
end

ENV.define_singleton_method(:prepend_path) { |_, folder| self["PATH"] = "#{folder}:#{self["PATH"]}" }

load ARGV[0]
formula = Formula.formula
puts JSON.generate({ name: formula.name, said: formula.said })
if ARGV[1]
  Dir.mktmpdir do |folder|
    made = formula.new(ARGV[1], folder)
    done = made.install
    made.instance_eval(&formula.test_block)
    raise "install does #{done}" if done != ["virtualenv_install_with_resources", "completions"]
  end
end
