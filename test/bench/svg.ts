/** Panels of a plot, as SVG: a frame with its scales, lines in it, names for them. Fractions of the panel go from 0 to 1, left to right and upwards. */

export const WIDTH = 900;
export const PANEL = { left: 60, right: 20, height: 260, gap: 60 } as const;
export const COLOURS = ['#1f4e9c', '#b5541c', '#3c7a3c', '#7a3c7a'] as const;
export const plotWidth = WIDTH - PANEL.left - PANEL.right;

export type Scale = { readonly most: number; readonly unit: string };
export type Point = readonly [x: number, y: number];

/** One below the other. */
export const svgOfPanels = (panels: readonly string[]): string => {
  const step = PANEL.height + PANEL.gap;
  const parts = panels.map((panel, at) => `<g transform="translate(0 ${at * step + 30})">${panel}</g>`);
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${panels.length * step + 30}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
${parts.join('\n')}
</svg>
`;
};

/** `yAt`: what stands at a height between 0 and 1; the scale is linear when it is not given. */
export const frame = (title: string, x: Scale, y: Scale, yAt = (part: number): number => y.most * part): string => {
  const lines = [`<text x="${PANEL.left}" y="-8" font-weight="bold">${title}</text>`];
  for (let at = 0; at <= 4; at += 1) {
    const left = PANEL.left + (at / 4) * plotWidth;
    const top = PANEL.height * (1 - at / 4);
    lines.push(
      `<line x1="${PANEL.left}" x2="${PANEL.left + plotWidth}" y1="${top}" y2="${top}" stroke="#ddd"/>`,
      `<text x="${PANEL.left - 6}" y="${top + 4}" text-anchor="end">${short(yAt(at / 4))}</text>`,
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

export const polyline = (points: readonly Point[], colour: string): string =>
  `<polyline fill="none" stroke="${colour}" stroke-width="1.5" points="${points
    .map(([x, y]) => `${(PANEL.left + x * plotWidth).toFixed(1)},${(PANEL.height * (1 - y)).toFixed(1)}`)
    .join(' ')}"/>`;

/** The name of the line number `at`. */
export const legend = (name: string, colour: string, at: number): string =>
  `<text x="${PANEL.left + plotWidth - 8}" y="${PANEL.height - 12 - at * 16}" text-anchor="end" fill="${colour}">${name}</text>`;
