/**
 * `overlay.json`: the layers of a disk from the bottom to the top (docs/formats/overlay.md). It is small, replaced as a
 * whole, and the only thing that says which layers count.
 */
import { CollectiveError, isDigest, type Digest } from '@collective/shared';
import { OVERLAY_LIMITS, SECTOR_BYTES } from './geometry.js';

export const DESCRIPTION_NAME = 'overlay.json';
const FORMAT = 3;
const LAYER_ID = /^[0-9a-f]{32}$/;
const CIPHER = 'aes-256-xts';
const KEY_CHECK = /^[A-Za-z0-9_-]{21}[AQgw]$/;

export type StackDescription = {
  readonly diskBytes: number;
  /** The base file below the layers (base-file.ts); null: what the source of `attach` says. */
  readonly base: Digest | null;
  /** Null: the layers are not encrypted. */
  readonly encryption: { readonly keyCheck: string } | null;
  readonly layerIds: readonly string[];
};

export const encodeStackDescription = ({ diskBytes, base, encryption, layerIds }: StackDescription): Buffer => {
  const written = encryption === null ? null : { cipher: CIPHER, keyCheck: encryption.keyCheck };
  return Buffer.from(`${JSON.stringify({ format: FORMAT, diskBytes, base, encryption: written, layers: layerIds })}\n`);
};

/** Errors: `malformed`, `unknown-format`. */
export const decodeStackDescription = (bytes: Buffer): StackDescription => {
  const malformed = (what: string): CollectiveError => new CollectiveError('malformed', `${DESCRIPTION_NAME}: ${what}`);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw new CollectiveError('malformed', `${DESCRIPTION_NAME} is not JSON`, { cause: error });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw malformed('not an object');
  const fields = new Map<string, unknown>(Object.entries(value));
  if (fields.get('format') !== FORMAT)
    throw new CollectiveError('unknown-format', `${DESCRIPTION_NAME}: unknown format`);
  const diskBytes = fields.get('diskBytes');
  const layers = fields.get('layers');
  if (fields.size !== 5) throw malformed('unknown fields');
  if (typeof diskBytes !== 'number' || !Number.isSafeInteger(diskBytes))
    throw malformed('diskBytes is no whole number');
  if (diskBytes <= 0 || diskBytes > OVERLAY_LIMITS.diskBytesMax || diskBytes % SECTOR_BYTES !== 0) {
    throw malformed(`a disk of ${diskBytes} bytes`);
  }
  const base = fields.get('base');
  if (base !== null && (typeof base !== 'string' || !isDigest(base))) throw malformed('base');
  if (!Array.isArray(layers) || layers.length === 0 || layers.length > OVERLAY_LIMITS.layersMax)
    throw malformed('layers');
  const layerIds: string[] = [];
  for (const layerId of layers as readonly unknown[]) {
    if (typeof layerId !== 'string' || !LAYER_ID.test(layerId) || layerIds.includes(layerId))
      throw malformed('a layer id');
    layerIds.push(layerId);
  }
  return { diskBytes, base, encryption: decodeEncryption(fields.get('encryption'), malformed), layerIds };
};

const decodeEncryption = (
  value: unknown,
  malformed: (what: string) => CollectiveError,
): StackDescription['encryption'] => {
  if (value === null) return null;
  if (typeof value !== 'object') throw malformed('encryption');
  const fields = new Map<string, unknown>(Object.entries(value));
  const keyCheck = fields.get('keyCheck');
  if (fields.size !== 2) throw malformed('unknown fields of encryption');
  if (fields.get('cipher') !== CIPHER)
    throw new CollectiveError('unknown-format', `${DESCRIPTION_NAME}: unknown cipher`);
  if (typeof keyCheck !== 'string' || !KEY_CHECK.test(keyCheck)) throw malformed('keyCheck');
  return { keyCheck };
};
