//! The live view in a terminal: rates, latencies and the time that is left. `q` or Ctrl-C ends the test early.

use std::io;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Stylize as _};
use ratatui::text::Line;
use ratatui::widgets::{Block, Gauge, Paragraph, Row, Sparkline, Table};
use ratatui::{DefaultTerminal, Frame};

use super::progress::Progress;
use super::units::milliseconds;

/// The terminal while the view is in it; the terminal is as before when this is dropped.
pub(super) struct View(DefaultTerminal);

impl View {
    /// Takes the terminal. Returns an error if it is none.
    pub(super) fn open() -> io::Result<Self> {
        ratatui::try_init().map(Self)
    }

    /// Draws `progress`. Returns true if the person wants the test to end.
    pub(super) fn draw(&mut self, progress: &Progress) -> io::Result<bool> {
        self.0.draw(|frame| draw(frame, progress))?;
        let mut quit = false;
        while event::poll(Duration::ZERO)? {
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                let interrupt =
                    key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                quit |= interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc);
            }
        }
        Ok(quit)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn draw(frame: &mut Frame<'_>, progress: &Progress) {
    let [head, gauge, rates, slowest, table, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(1),
        Constraint::Min(4),
        Constraint::Min(4),
        Constraint::Length(5),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let counts = format!(
        "answered {}   failed {}   connections opened {}",
        progress.answered, progress.failed, progress.connections
    );
    let counts = if progress.failed > 0 { Line::from(counts).fg(Color::Red) } else { Line::from(counts) };
    frame.render_widget(Paragraph::new(vec![Line::from(progress.title.as_str()).bold(), counts]), head);
    let label = match progress.elapsed {
        Some(elapsed) => format!("{} s", elapsed.as_secs()),
        None => "warm-up".to_owned(),
    };
    frame
        .render_widget(Gauge::default().ratio(progress.share()).label(label).gauge_style(Color::Blue), gauge);
    let width = usize::from(frame.area().width.saturating_sub(2));
    let shown = progress.seconds.len().saturating_sub(width);
    let shown = progress.seconds.get(shown..).unwrap_or_default();
    let last = shown.last();
    let rate = last.map_or(0, |second| second.answered);
    let title = format!(" answered per second: {rate} ");
    let bars = Sparkline::default().data(shown.iter().map(|second| second.answered)).style(Color::Blue);
    frame.render_widget(bars.block(Block::bordered().title(title)), rates);
    let p99 = |second: &super::recorder::Second| second.latency.value_at_quantile(0.99);
    let title = format!(" p99 in ms: {} ", milliseconds(last.map_or(0, p99)));
    let bars =
        Sparkline::default().data(shown.iter().map(|second| p99(second) / 1_000)).style(Color::Magenta);
    frame.render_widget(bars.block(Block::bordered().title(title)), slowest);
    frame.render_widget(latencies(progress), table);
    frame.render_widget(Line::from("q ends the test").dim(), foot);
}

fn latencies(progress: &Progress) -> Table<'static> {
    let row = |name: &'static str, histogram: &hdrhistogram::Histogram<u32>| {
        let cells =
            [0.5, 0.9, 0.99, 0.999, 1.0].map(|quantile| milliseconds(histogram.value_at_quantile(quantile)));
        Row::new(std::iter::once(name.to_owned()).chain(cells))
    };
    let rows = [row("last seconds", &progress.recent()), row("all", &progress.latency)];
    let widths = std::iter::once(Constraint::Length(14)).chain([Constraint::Length(9); 5]);
    Table::new(rows, widths)
        .header(Row::new(["ms", "p50", "p90", "p99", "p99.9", "max"]).bold())
        .block(Block::bordered().title(" latency "))
}

#[cfg(test)]
pub(super) mod testing {
    use super::super::recorder::Second;
    use super::super::spec::{Pace, Protocol, Spec, Transfer, Until};
    use super::*;

    /// A test of 4 s, with two seconds over.
    pub(in super::super) fn progress() -> Progress {
        let spec = Spec {
            address: ([127, 0, 0, 1], 80).into(),
            tls: None,
            protocol: Protocol::Tcp(Transfer { send: "x".into(), receive: 1 }),
            connections: 1,
            streams: 1,
            connection_per_request: false,
            pace: Pace::ClosedLoop,
            warm_up: Duration::ZERO,
            until: Until::Elapsed(Duration::from_secs(4)),
            timeout: Duration::from_secs(1),
            threads: 1,
            cores: Vec::new(),
        };
        let mut progress = Progress::new("tcp://shop:80".into(), &spec);
        let seconds = [(100, 2), (200, 0)].map(|(answered, failed)| {
            let mut second = Second::new();
            (second.answered, second.failed) = (answered, failed);
            second.latency.record_n(answered * 10_000, answered as u32).unwrap();
            second
        });
        progress.add(seconds.into());
        progress
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    #[test]
    fn the_view_shows_rates_latencies_and_failures() {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        let mut progress = testing::progress();
        progress.elapsed = Some(Duration::from_secs(2));
        terminal.draw(|frame| draw(frame, &progress)).unwrap();
        let text = terminal.backend().to_string();
        for expected in
            ["tcp://shop:80", "answered 300   failed 2", "answered per second: 200", "p99 in ms: 2.0", "2 s"]
        {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }

    #[test]
    fn a_small_terminal_is_no_error() {
        let mut terminal = Terminal::new(TestBackend::new(5, 3)).unwrap();
        terminal.draw(|frame| draw(frame, &testing::progress())).unwrap();
    }
}
