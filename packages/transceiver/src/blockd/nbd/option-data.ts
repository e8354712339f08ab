/** Decoders of option data in the handshake. Undefined means malformed: wrong lengths, trailing bytes, bad UTF-8, too many. */
import { NBD_LIMITS } from './nbd-limits.js';

const utf8 = new TextDecoder('utf-8', { fatal: true });

const decodeName = (bytes: Uint8Array): string | undefined => {
  if (bytes.length > NBD_LIMITS.nameBytesMax) return undefined;
  try {
    return utf8.decode(bytes);
  } catch {
    return undefined;
  }
};

/** NBD_OPT_EXPORT_NAME: the name alone. */
export const decodeExportName = (data: Buffer): string | undefined => decodeName(data);

export type InfoRequest = { readonly exportName: string; readonly infoTypes: readonly number[] };

/** NBD_OPT_INFO and NBD_OPT_GO: name length u32 · name · count u16 · count x type u16 */
export const decodeInfoRequest = (data: Buffer): InfoRequest | undefined => {
  if (data.length < 6) return undefined;
  const nameEnd = 4 + data.readUInt32BE(0);
  if (nameEnd + 2 > data.length) return undefined;
  const exportName = decodeName(data.subarray(4, nameEnd));
  const count = data.readUInt16BE(nameEnd);
  if (exportName === undefined || data.length !== nameEnd + 2 + 2 * count) return undefined;
  const infoTypes: number[] = [];
  for (let index = 0; index < count; index += 1) infoTypes.push(data.readUInt16BE(nameEnd + 2 + 2 * index));
  return { exportName, infoTypes };
};

export type MetaContextRequest = { readonly exportName: string; readonly queries: readonly string[] };

/** NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT: name length u32 · name · count u32 · count x (length u32 · query) */
export const decodeMetaContextRequest = (data: Buffer): MetaContextRequest | undefined => {
  if (data.length < 8) return undefined;
  const nameEnd = 4 + data.readUInt32BE(0);
  if (nameEnd + 4 > data.length) return undefined;
  const exportName = decodeName(data.subarray(4, nameEnd));
  const count = data.readUInt32BE(nameEnd);
  if (exportName === undefined || count > NBD_LIMITS.queriesMax) return undefined;
  const queries: string[] = [];
  let position = nameEnd + 4;
  for (let index = 0; index < count; index += 1) {
    if (position + 4 > data.length) return undefined;
    const queryEnd = position + 4 + data.readUInt32BE(position);
    if (queryEnd > data.length) return undefined;
    const query = decodeName(data.subarray(position + 4, queryEnd));
    if (query === undefined) return undefined;
    queries.push(query);
    position = queryEnd;
  }
  return position === data.length ? { exportName, queries } : undefined;
};
