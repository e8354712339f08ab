/** Figure 8 as text and as a picture: how often at most so much was not backed up, and how it went over the day. */

export type Line = { readonly name: string; readonly values: readonly number[] };
export type Series = {
  readonly name: string;
  readonly points: readonly { readonly atSeconds: number; readonly bytes: number }[];
  /** When the person went idle. */
  readonly idleSeconds: readonly number[];
};

const MB = 1e6;
const BAR_CHARS = 40;
const STEPS_MB = [0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 35, 50, 100];

/** The part of the values that is at most `bound`, 0 to 1. */
export const shareUpTo = (values: readonly number[], bound: number): number =>
  values.length === 0 ? Number.NaN : values.filter((value) => value <= bound).length / values.length;

export const cdfText = ({ name, values }: Line): string[] => [
  `${name}, share of ${values.length} idle moments with at most`,
  ...STEPS_MB.map((step) => {
    const share = shareUpTo(values, step * MB);
    return `${step.toString().padStart(7)} MB ${'#'.repeat(Math.round(share * BAR_CHARS)).padEnd(BAR_CHARS)} ${(share * 100).toFixed(0)} %`;
  }),
];

const WIDTH = 900;
const PANEL = { left: 60, right: 20, height: 260, gap: 60 } as const;
const COLOURS = ['#1f4e9c', '#b5541c', '#3c7a3c', '#7a3c7a'];

/** The distribution above, below it one panel a day. */
export const svgOf = (cdf: readonly Line[], days: readonly Series[]): string => {
  const panels = [cdfPanel(cdf), ...days.map(seriesPanel)];
  const step = PANEL.height + PANEL.gap;
  const parts = panels.map((panel, at) => `<g transform="translate(0 ${at * step + 30})">${panel}</g>`);
  const height = panels.length * step + 30;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
${parts.join('\n')}
</svg>
`;
};

const plotWidth = WIDTH - PANEL.left - PANEL.right;

type Scale = { readonly most: number; readonly unit: string };
const frame = (title: string, x: Scale, y: Scale): string => {
  const lines = [`<text x="${PANEL.left}" y="-8" font-weight="bold">${title}</text>`];
  for (let at = 0; at <= 4; at += 1) {
    const left = PANEL.left + (at / 4) * plotWidth;
    const top = PANEL.height * (1 - at / 4);
    lines.push(
      `<line x1="${PANEL.left}" x2="${PANEL.left + plotWidth}" y1="${top}" y2="${top}" stroke="#ddd"/>`,
      `<text x="${PANEL.left - 6}" y="${top + 4}" text-anchor="end">${short((y.most * at) / 4)}</text>`,
      `<text x="${left}" y="${PANEL.height + 16}" text-anchor="middle">${short((x.most * at) / 4)}</text>`,
    );
  }
  lines.push(
    `<text x="${PANEL.left + plotWidth}" y="${PANEL.height + 32}" text-anchor="end">${x.unit}</text>`,
    `<text x="${PANEL.left + 4}" y="12" fill="#555">${y.unit}</text>`,
  );
  return lines.join('');
};

const short = (value: number): string => (value >= 10 || value === 0 ? value.toFixed(0) : value.toPrecision(2));

const polyline = (points: readonly (readonly [number, number])[], colour: string): string =>
  `<polyline fill="none" stroke="${colour}" stroke-width="1.5" points="${points
    .map(([x, y]) => `${(PANEL.left + x * plotWidth).toFixed(1)},${(PANEL.height * (1 - y)).toFixed(1)}`)
    .join(' ')}"/>`;

const cdfPanel = (lines: readonly Line[]): string => {
  const most = Math.max(1, ...lines.flatMap(({ values }) => values.map((value) => value / MB)));
  const drawn = lines.map(({ name, values }, at) => {
    const colour = COLOURS[at % COLOURS.length] ?? 'black';
    const sorted = [...values].sort((a, b) => a - b);
    const points: [number, number][] = [[0, shareUpTo(values, 0)]];
    sorted.forEach((value, index) => {
      points.push([value / MB / most, index / sorted.length], [value / MB / most, (index + 1) / sorted.length]);
    });
    points.push([1, 1]);
    const legend = `<text x="${PANEL.left + plotWidth - 8}" y="${PANEL.height - 12 - at * 16}" text-anchor="end" fill="${colour}">${name}</text>`;
    return polyline(points, colour) + legend;
  });
  const title = 'Not backed up when a person goes idle';
  return frame(title, { most, unit: 'at most so much, MB' }, { most: 100, unit: '% of idle moments' }) + drawn.join('');
};

const seriesPanel = ({ name, points, idleSeconds }: Series): string => {
  const hours = Math.max(1e-3, ...points.map(({ atSeconds }) => atSeconds / 3_600));
  const most = Math.max(1, ...points.map(({ bytes }) => bytes / MB));
  const marks = idleSeconds.map((seconds) => {
    const x = (PANEL.left + (seconds / 3_600 / hours) * plotWidth).toFixed(1);
    return `<line x1="${x}" x2="${x}" y1="0" y2="${PANEL.height}" stroke="#b5541c" stroke-dasharray="2 3"/>`;
  });
  const line = polyline(
    points.map(({ atSeconds, bytes }) => [atSeconds / 3_600 / hours, bytes / MB / most] as const),
    COLOURS[0] ?? 'black',
  );
  return (
    frame(`${name} (dashed: goes idle)`, { most: hours, unit: 'hours' }, { most, unit: 'MB not backed up' }) +
    marks.join('') +
    line
  );
};
