/** Results as a table on the terminal, a Markdown file and an SVG chart in `bench/report/`. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, release } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { spawnSync } from "node:child_process";

/** A row of a table: a name, then cells. */
export type Row = readonly string[];

/** One table of the report. */
export interface Table {
  title: string;
  head: Row;
  rows: Row[];
  /** Bars of the chart, from the rows; none when missing. */
  bars?: { label: string; value: number; unit: string }[];
  /** Lines of a chart whose axes are both logarithmic. */
  lines?: { unit: string; series: { label: string; points: [number, number][] }[] };
}

/** Says on a terminal what is being measured, on one line; null: nothing any more. */
export function progress(what: string | null): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${what ?? ""}`);
}

/** The table with its columns in line. */
export function formatTable({ title, head, rows }: Table): string {
  const widths = head.map((_, i) => Math.max(...[head, ...rows].map((row) => (row[i] ?? "").length)));
  const line = (row: Row) =>
    `| ${row.map((cell, i) => i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i])).join(" | ")} |`;
  const rule = `| ${
    widths.map((width, i) => i === 0 ? "-".repeat(width) : `${"-".repeat(width - 1)}:`).join(" | ")
  } |`;
  return `### ${title}\n\n${[line(head), rule, ...rows.map(line)].join("\n")}\n`;
}

/** The machine and the versions, one line each. */
export function environment(root: string): string {
  const version = (command: string, ...args: string[]) => {
    const { stdout, status } = spawnSync(command, args, { encoding: "utf8", cwd: root });
    return status === 0 ? stdout.trim().split("\n")[0] : "missing";
  };
  const bin = join(root, "node_modules", ".bin");
  const memory = /MemTotal:\s+(\d+)/.exec(readFileSync("/proc/meminfo", "utf8"))?.[1] ?? "0";
  return [
    `machine: ${cpus().length} × ${cpus()[0].model}, ${
      (Number(memory) / 2 ** 20).toFixed(0)
    } GiB, Linux ${release()}`,
    `runtimes: Bun ${version(join(bin, "bun"), "--version")}, ${version(join(bin, "deno"), "--version")}, ` +
    `Node ${version("node", "--version")}`,
    `peers: libzmq ${version("pkg-config", "--modversion", "libzmq")}, ${
      version("nats-server", "--version")
    }, ` +
    version("cc", "--version"),
  ].join("\n");
}

/** Writes `report.md` and a chart for each table that has bars. */
export function writeReport(root: string, tables: Table[], skipped: string[]): void {
  const folder = join(root, "bench", "report");
  mkdirSync(folder, { recursive: true });
  const charts = tables.filter(({ bars, lines }) => lines || (bars && bars.length > 0));
  const parts = tables.map((table) => {
    const chart = charts.indexOf(table);
    return formatTable(table) + (chart < 0 ? "" : `\n![${table.title}](chart${chart + 1}.svg)\n`);
  });
  const missing = skipped.length > 0 ? `\nSkipped: ${skipped.join("; ")}.\n` : "";
  writeFileSync(
    join(folder, "report.md"),
    `# Benchmark\n\n${environment(root).split("\n").map((line) => `- ${line}`).join("\n")}\n${missing}\n${
      parts.join("\n")
    }`,
  );
  charts.forEach((table, i) =>
    writeFileSync(join(folder, `chart${i + 1}.svg`), table.lines ? lineChart(table) : chart(table))
  );
  process.stdout.write(`\nwritten: bench/report/report.md and ${charts.length} charts\n`);
}

const BAR_HEIGHT = 22;
const LABEL_WIDTH = 190;
const BAR_WIDTH = 420;

function chart({ title, bars = [] }: Table): string {
  const most = Math.max(...bars.map(({ value }) => value));
  const height = 40 + bars.length * BAR_HEIGHT;
  const rows = bars.map(({ label, value, unit }, i) => {
    const y = 34 + i * BAR_HEIGHT;
    const width = Math.max(1, value / most * BAR_WIDTH);
    const fill = label.startsWith("ccserver") ? "#2563eb" : "#94a3b8";
    return `<text x="${LABEL_WIDTH - 8}" y="${y + 13}" text-anchor="end">${escape(label)}</text>` +
      `<rect x="${LABEL_WIDTH}" y="${y}" width="${width.toFixed(1)}" height="16" rx="2" fill="${fill}"/>` +
      `<text x="${LABEL_WIDTH + width + 6}" y="${y + 13}">${escape(unit)}</text>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${
    LABEL_WIDTH + BAR_WIDTH + 120
  }" height="${height}" ` +
    `font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>` +
    `<text x="12" y="20" font-size="14" font-weight="bold">${escape(title)}</text>${rows.join("")}</svg>\n`;
}

const COLORS = ["#2563eb", "#94a3b8", "#0f766e"];

function lineChart({ title, lines }: Table): string {
  const { unit, series } = lines!;
  const [left, top, width, height] = [60, 40, 560, 260];
  const all = series.flatMap(({ points }) => points);
  const scale = (values: number[], from: number, to: number) => {
    const low = Math.log10(Math.min(...values)) - 0.05;
    const high = Math.max(Math.log10(Math.max(...values)) + 0.05, low + 0.2);
    return (value: number) => from + (Math.log10(value) - low) / (high - low) * (to - from);
  };
  const x = scale(all.map(([value]) => value), left, left + width);
  const y = scale(all.map(([, value]) => value), top + height, top);
  const drawn = series.map(({ label, points }, i) => {
    const color = COLORS[i % COLORS.length];
    const path = points.map(([px, py]) => `${x(px).toFixed(1)},${y(py).toFixed(1)}`).join(" ");
    const dots = points.map(([px, py]) =>
      `<circle cx="${x(px).toFixed(1)}" cy="${y(py).toFixed(1)}" r="3" fill="${color}"/>` +
      `<text x="${x(px).toFixed(1)}" y="${(y(py) - 8).toFixed(1)}" text-anchor="middle" font-size="10">${
        Number(py.toPrecision(2))
      }</text>`
    );
    return `<polyline points="${path}" fill="none" stroke="${color}" stroke-width="2"/>${dots.join("")}` +
      `<text x="${left + 10 + i * 200}" y="34" fill="${color}">${escape(label)}, µs</text>`;
  });
  const ticks = [...new Set(all.map(([value]) => value))].map((value) =>
    `<text x="${x(value).toFixed(1)}" y="${top + height + 18}" text-anchor="middle">${value}</text>`
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${left + width + 20}" height="${
    top + height + 44
  }" ` +
    `font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>` +
    `<text x="12" y="18" font-size="14" font-weight="bold">${escape(title)}</text>` +
    `<path d="M${left} ${top}V${top + height}H${left + width}" fill="none" stroke="#cbd5e1"/>` +
    `${drawn.join("")}${ticks.join("")}` +
    `<text x="${left + width}" y="${top + height + 36}" text-anchor="end">${escape(unit)}</text></svg>\n`;
}

function escape(text: string): string {
  return text.replace(/[<>&]/g, (c) => `&#${c.charCodeAt(0)};`);
}
