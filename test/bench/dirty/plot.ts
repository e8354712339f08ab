/** Figure 8 as text and as a picture: how often at most so much was not backed up, and how it went over the day. */
import { COLOURS, frame, legend, PANEL, plotWidth, polyline, svgOfPanels } from '../svg.js';

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

/** The distribution above, below it one panel a day. */
export const svgOf = (cdf: readonly Line[], days: readonly Series[]): string => {
  return svgOfPanels([cdfPanel(cdf), ...days.map(seriesPanel)]);
};

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
    return polyline(points, colour) + legend(name, colour, at);
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
