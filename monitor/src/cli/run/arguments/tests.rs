//! Tests of command lines and the descriptions made from them.

use clap::{CommandFactory as _, Parser as _};
use proptest::prelude::*;

use super::*;

#[derive(Debug, clap::Parser)]
struct Cli {
    #[command(flatten)]
    run: Arguments,
}

fn parse(words: &[String]) -> RunSpec {
    let cli = Cli::try_parse_from(std::iter::once("run").chain(words.iter().map(String::as_str)));
    cli.unwrap().run.spec().unwrap()
}

const PATH: &str = "[a-zA-Z0-9/_.,: ]{0,12}[a-z]";

/// An option with a value of that form.
fn with(name: &'static str, value: &'static str) -> BoxedStrategy<Vec<String>> {
    value.prop_map(move |value| vec![name.to_owned(), value]).boxed()
}

/// Options of a command line, each with a value that it can have.
#[expect(clippy::too_many_lines, reason = "a table: a line an option")]
fn options() -> impl Strategy<Value = Vec<String>> {
    let any_of = prop_oneof![
        prop::sample::select(vec![
            "--driver",
            "--kernel",
            "--initrd",
            "--variables",
            "--screenshot",
            "--port-driver",
            "--registry",
            "--report-dir",
            "--record",
            "--kvm",
            "--serial",
            "--symbols",
            "--dump-on-violation",
            "--load",
            "--report",
            "--firmware",
        ])
        .prop_flat_map(|name| with(name, PATH)),
        prop::sample::select(vec![
            "--no-reboot",
            "--reboot-at-triple-fault",
            "--hyperv",
            "--hyperv=off",
            "--ignore-msrs",
            "--debug-print",
            "--explain",
            "--check-guest",
            "--gdb-wait",
            "--gdb-expose",
            "--no-sandbox",
            "--firmware",
        ])
        .prop_map(|name| vec![name.to_owned()]),
        with("--cpus", "[1-9]"),
        with("--phys-bits", "[1-9][0-9]"),
        with("--memory", "[1-9][0-9]{0,4}[KMG]?"),
        with("--output-limit", "[1-9][0-9]{0,4}[KMG]?"),
        with("--seed", "[1-9][0-9]{0,9}"),
        with("--time-limit", "[1-9][0-9]{0,3}(ms|s|m|h)?"),
        with("--shutdown-grace", "[1-9][0-9]{0,3}(ms|s|m|h)?"),
        with("--format", "text|json"),
        with("--report-format", "text|json"),
        with("--interrupts", "msix|msi|intx"),
        with("--on-violation", "stop|report"),
        with("--on-disconnect", "pause|resume"),
        with("--after-deadlock", "end|go-on"),
        with(
            "--rule",
            "(LockOrder|LockStorage|DoubleAcquire)=(off|[a-z]{1,8}\\.sys(,[a-z]\\.sys)?)"
        ),
        with("--append", "[-a-z =]{1,12}"),
        with("--gdb", ":[1-9][0-9]{0,3}|unix:/[a-z]{1,9}"),
        with("--dump-export", "[a-z.]{1,9}![A-Za-z]{1,9}:[1-9][0-9]{0,3}"),
        with(
            "--fault",
            "(fail|drop|fatal):(read|write|io|admin\\.0x0[1-9])(,after=[0-9])?(,count=([1-9]|all))?"
        ),
        with(
            "--disk",
            "(mem:[1-9][0-9]{0,3}[KM]|[a-z./]{1,9},,[a-z]{1,9}(,(readonly|snapshot(=[1-9]M)?))?(,format=(raw|qcow2|vmdk))?(,backing=[a-z],,[a-z])?)(,controller=nvme)?(,namespace)?(,target)?"
        ),
    ];
    prop::collection::vec(any_of, 0..12).prop_filter_map("an option that is given once is given twice", |options| {
        let many = ["--load", "--fault", "--disk", "--dump-export", "--report", "--rule"];
        let mut seen: Vec<&str> = options
            .iter()
            .filter_map(|words| words.first()?.split('=').next())
            .collect();
        seen.retain(|name| !many.contains(name));
        seen.sort_unstable();
        let count = seen.len();
        seen.dedup();
        (seen.len() == count).then(|| options.concat())
    })
}

/// Descriptions that a command line can make.
pub(crate) fn specs() -> impl Strategy<Value = RunSpec> {
    options().prop_map(|words| parse(&words))
}

proptest! {
    #[test]
    fn a_description_survives_its_json_and_its_command_line(words in options()) {
        let spec = parse(&words);
        let json = spec.to_json().unwrap();
        prop_assert_eq!(&RunSpec::from_json(json.as_bytes()).unwrap(), &spec, "{}", json);
        let again = command_line(&spec);
        prop_assert_eq!(&parse(&again[2..]), &spec, "{:?}", again);
    }

    #[test]
    fn options_beside_a_description_replace_what_it_says(first in options(), second in options()) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("spec.json");
        std::fs::write(&file, parse(&first).to_json().unwrap()).unwrap();
        let mut words = vec!["--spec".to_owned(), file.display().to_string()];
        words.extend(second.iter().cloned());
        let (both, alone, base) = (parse(&words), parse(&second), parse(&first));
        let given = |name: &str| second.iter().any(|word| word == name);
        prop_assert_eq!(both.seed, if given("--seed") { alone.seed } else { base.seed });
        prop_assert_eq!(&both.disk, if given("--disk") { &alone.disk } else { &base.disk });
        prop_assert_eq!(&both.report_dir, if given("--report-dir") { &alone.report_dir } else { &base.report_dir });
        prop_assert_eq!(both.no_sandbox, alone.no_sandbox || base.no_sandbox);
        if second.is_empty() {
            prop_assert_eq!(both, base);
        }
    }
}

#[test]
fn help_tells_the_defaults_that_a_description_has() {
    let default = RunSpec::default();
    let command = Cli::command();
    for (option, value) in [
        ("cpus", default.cpus.to_string()),
        ("time-limit", default.time_limit.to_string()),
        ("report-dir", default.report_dir.display().to_string()),
        ("output-limit", default.output_limit.to_string()),
        ("kvm", default.kvm.display().to_string()),
        ("disk", default.disk[0].to_string()),
        ("format", "text".to_owned()),
        ("interrupts", "msix".to_owned()),
        ("on-violation", "stop".to_owned()),
        ("on-disconnect", "pause".to_owned()),
    ] {
        let argument = command
            .get_arguments()
            .find(|argument| argument.get_long() == Some(option));
        let help = argument.unwrap().get_help().unwrap().to_string();
        assert!(help.contains(&format!("[default: {value}]")), "{option}: {help}");
    }
    assert_eq!(default.format.to_possible_value().unwrap().get_name(), "text");
    assert_eq!(default.interrupts.to_possible_value().unwrap().get_name(), "msix");
    assert_eq!(OnViolation::default().to_possible_value().unwrap().get_name(), "stop");
}

#[test]
fn a_file_that_describes_no_run_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("spec.json");
    std::fs::write(&file, r#"{"schema": "storlock-run/1", "drvier": "x"}"#).unwrap();
    let cli = Cli::try_parse_from(["run", "--spec", file.to_str().unwrap()]).unwrap();
    let told = format!("{:#}", cli.run.spec().unwrap_err().error);
    assert!(
        told.contains("spec.json") && told.contains("unknown field `drvier`"),
        "{told}"
    );
}
