//! The measured ratios as a drawing: one bar for each row, what it is compared with being the line at 1.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::Row;

const WIDTH: u32 = 720;
const ROW_HEIGHT: u32 = 64;
const MARGIN: u32 = 120;
const OURS: RGBColor = RGBColor(0x2a, 0x6f, 0x97);
const LIMIT: RGBColor = RGBColor(0xb0, 0x3a, 0x2e);

/// Draws the chart to an SVG file.
///
/// # Errors
/// The file cannot be written.
pub fn draw(rows: &[Row], caption: &str, path: &Path) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    draw_bars(rows, caption, path).map_err(|error| anyhow!("drawing {}: {error}", path.display()))
}

fn draw_bars(rows: &[Row], caption: &str, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let count = u32::try_from(rows.len())?;
    let area = SVGBackend::new(path, (WIDTH, count * ROW_HEIGHT + MARGIN)).into_drawing_area();
    area.fill(&WHITE)?;
    let longest = rows.iter().map(Row::ratio).fold(1.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(&area)
        .caption(caption, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(32)
        .y_label_area_size(0)
        .build_cartesian_2d(0.0..longest, 0.0..f64::from(count))?;
    chart.configure_mesh().disable_y_mesh().y_labels(0).x_desc("ratio; red: the goal").draw()?;
    for (index, row) in (0_u32..).zip(rows) {
        let top = f64::from(count - index);
        let (high, low) = (top - 0.35, top - 0.8);
        chart.draw_series([Rectangle::new([(0.0, low), (row.ratio(), high)], OURS.filled())])?;
        chart.draw_series([PathElement::new(
            vec![(row.goal, low), (row.goal, high)],
            LIMIT.stroke_width(3),
        )])?;
        let label = format!("{}: {:.3}", row.name, row.ratio());
        chart.draw_series([Text::new(label, (0.0, top - 0.08), ("sans-serif", 15).into_font())])?;
    }
    area.present()?;
    Ok(())
}
