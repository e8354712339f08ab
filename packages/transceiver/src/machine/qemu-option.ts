/** QEMU's two ways to write an option: `first,key=value,…`, where a comma inside a value is doubled, and JSON. */
export const option = (first: string | undefined, fields: Readonly<Record<string, string | number>>): string =>
  [
    ...(first === undefined ? [] : [doubled(first)]),
    ...Object.entries(fields).map(([key, value]) => `${key}=${doubled(String(value))}`),
  ].join(',');

const doubled = (text: string): string => text.replaceAll(',', ',,');

export type JsonOption = { readonly [key: string]: string | number | boolean | JsonOption };

export const json = (fields: JsonOption): string => JSON.stringify(fields);
