/**
 * How the name of a block follows from its bytes. The cache checks what it serves and what a scrub reads with it, and knows nothing of keys: public
 * blocks are named by SHA-256, a person's by HMACs (private/block-key-ring.ts).
 */
import { sha256, sha256Bytes, type Digest } from '@collective/shared';

/** How much of a digest is kept in records: enough to see decay. */
export const NAME_PREFIX_BYTES = 16;

export interface BlockNaming {
  isNamed(block: Uint8Array, digest: Digest): boolean;
  /** The same for the first 16 bytes of a digest. */
  beginsWith(block: Uint8Array, prefix: Uint8Array): boolean;
}

export const publicNaming: BlockNaming = {
  isNamed: (block, digest) => sha256(block) === digest,
  beginsWith: (block, prefix) => sha256Bytes(block).compare(prefix, 0, NAME_PREFIX_BYTES, 0, NAME_PREFIX_BYTES) === 0,
};
