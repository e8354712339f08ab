/** A picture of bars: groups side by side, each with one bar a series. Heights are on a logarithmic scale that begins at a half. */
import { frame, PANEL, plotWidth, svgOfPanels } from '../svg.js';

export type BarGroup = { readonly name: string; readonly values: readonly (number | undefined)[] };

const COLOURS = ['#1f4e9c', '#7fa3d9', '#3c7a3c', '#b5541c', '#888888'] as const;
const LEAST = 0.5;
const GAP = 0.25;

/** `series` names the bars of each group, in the order of its values; an undefined value has no bar. */
export const barsSvg = (picture: {
  readonly title: string;
  readonly unit: string;
  readonly series: readonly string[];
  readonly groups: readonly BarGroup[];
}): string => {
  const { title, unit, series, groups } = picture;
  const most = Math.max(1, ...groups.flatMap(({ values }) => values.map((value) => value ?? 0)));
  const heightOf = (value: number): number => Math.max(0, Math.log(value / LEAST) / Math.log(most / LEAST));
  const groupWidth = plotWidth / Math.max(1, groups.length);
  const barWidth = (groupWidth * (1 - GAP)) / Math.max(1, series.length);
  const parts = groups.flatMap(({ name, values }, at) => {
    const left = PANEL.left + at * groupWidth + (groupWidth * GAP) / 2;
    const bars = values.flatMap((value, index) => {
      if (value === undefined) return [];
      const height = heightOf(value) * PANEL.height;
      const x = left + index * barWidth;
      const y = PANEL.height - height;
      return [
        `<rect x="${x.toFixed(1)}" y="${y.toFixed(1)}" width="${(barWidth * 0.9).toFixed(1)}" height="${height.toFixed(1)}" fill="${COLOURS[index % COLOURS.length]}"/>`,
        `<text x="${(x + barWidth / 2).toFixed(1)}" y="${(y - 2).toFixed(1)}" text-anchor="middle" font-size="8">${value >= 10 ? value.toFixed(0) : value.toPrecision(2)}</text>`,
      ];
    });
    const middle = PANEL.left + (at + 0.5) * groupWidth;
    const [first = '', ...rest] = name.split(', ');
    return [
      ...bars,
      `<text x="${middle.toFixed(1)}" y="${PANEL.height + 14}" text-anchor="middle" font-size="9">${first}</text>`,
      `<text x="${middle.toFixed(1)}" y="${PANEL.height + 26}" text-anchor="middle" font-size="9">${rest.join(', ')}</text>`,
    ];
  });
  const names = series.map(
    (name, at) =>
      `<rect x="${PANEL.left + 70}" y="${6 + at * 14}" width="10" height="10" fill="${COLOURS[at % COLOURS.length]}"/><text x="${PANEL.left + 84}" y="${15 + at * 14}" font-size="10">${name}</text>`,
  );
  // The frame's own scale below is that of a line: groups have their names there instead.
  const axes = frame(title, { most: 0, unit: '' }, { most, unit }, (part) => LEAST * (most / LEAST) ** part);
  return svgOfPanels([
    axes.replaceAll(/<text[^>]*text-anchor="middle">0<\/text>/g, '') + parts.join('') + names.join(''),
  ]);
};
