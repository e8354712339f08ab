/**
 * AES-256 from one buffer into another. `node:crypto` makes a new buffer for each call, and the page faults and the garbage of that cost far more
 * than the cipher (measured: 4 KiB 1.6–3.7 µs instead of 0.7, and 64 MiB of a memory image 0.3 s instead of 0.02). So Node's own OpenSSL is called
 * where it lies in the process, through koffi; where that cannot be, `node:crypto` does it. Which of them it is shows in nothing but time.
 *
 * As in blockd/syscalls.ts: a wrong signature here is a crash, not an exception. So what is found has to pass an example before it is used.
 */
import { createCipheriv, createDecipheriv } from 'node:crypto';

export type BlockCipherMode = 'ecb-encrypt' | 'ecb-decrypt' | 'ctr';

/** One thread at a time; keeps its own copy of the key. */
export interface BlockCipher {
  /** Whole `source` into the beginning of `target`, which may be the same bytes. ECB: whole blocks of 16 bytes. CTR goes on where it was. */
  update(source: Uint8Array, target: Uint8Array): void;
}

type Make = (mode: BlockCipherMode, key: Uint8Array, counter: Uint8Array | null) => BlockCipher;

/** `counter`: the first one of CTR, 16 bytes. */
export const newBlockCipher = (
  mode: BlockCipherMode,
  key: Uint8Array,
  counter: Uint8Array | null = null,
): BlockCipher => make(mode, key, counter);

export const makeByNode: Make = (mode, key, counter) => {
  const name = mode === 'ctr' ? 'aes-256-ctr' : 'aes-256-ecb';
  const cipher = mode === 'ecb-decrypt' ? createDecipheriv(name, key, counter) : createCipheriv(name, key, counter);
  cipher.setAutoPadding(false);
  return { update: (source, target) => target.set(cipher.update(source)) };
};

/** Undefined where OpenSSL is not to be had in the process. */
const findNative = async (): Promise<Make | undefined> => {
  if (process.env['COLLECTIVE_NO_KOFFI'] === '1' || process.platform !== 'linux' || process.arch !== 'x64')
    return undefined;
  try {
    const { default: koffi } = await import('koffi');
    const program = koffi.load(null);
    const newContext = program.func('void *EVP_CIPHER_CTX_new()');
    const freeContext = program.func('void EVP_CIPHER_CTX_free(void *context)');
    const modes = { ecb: program.func('void *EVP_aes_256_ecb()'), ctr: program.func('void *EVP_aes_256_ctr()') };
    const initialise = program.func(
      'int EVP_CipherInit_ex(void *context, void *type, void *engine, const uint8_t *key, const uint8_t *iv, int encrypts)',
    );
    const setPadding = program.func('int EVP_CIPHER_CTX_set_padding(void *context, int padding)');
    const run = program.func(
      'int EVP_Cipher(void *context, uint8_t *target, const uint8_t *source, uint32 byteLength)',
    );
    const freed = new FinalizationRegistry<unknown>((context) => void freeContext(context));
    return (mode, key, counter) => {
      const context: unknown = newContext();
      const type: unknown = mode === 'ctr' ? modes.ctr() : modes.ecb();
      if (initialise(context, type, null, key, counter, mode === 'ecb-decrypt' ? 0 : 1) !== 1)
        throw new Error(`OpenSSL does not begin ${mode}`);
      setPadding(context, 0);
      const cipher: BlockCipher = {
        update: (source, target) => {
          if (target.length < source.length) throw new RangeError(`${source.length} bytes into ${target.length}`);
          if (source.length === 0) return; // would mean something else to it
          // A number: how many bytes, or only that it went well. Never 0 or less, or there is no result at all.
          if (Number(run(context, target, source, source.length)) <= 0) throw new Error(`OpenSSL failed in ${mode}`);
        },
      };
      freed.register(cipher, context);
      return cipher;
    };
  } catch {
    return undefined;
  }
};

const passesExample = (native: Make): boolean => {
  const key = Buffer.from(Array.from({ length: 32 }, (_, index) => index * 7));
  const counter = Buffer.alloc(16, 0xfe);
  const plain = Buffer.from(Array.from({ length: 4096 }, (_, index) => (index * 31) & 0xff));
  try {
    return (['ecb-encrypt', 'ecb-decrypt', 'ctr'] as const).every((mode) => {
      const [expected, found] = [makeByNode, native].map((each) => {
        const cipher = each(mode, key, mode === 'ctr' ? counter : null);
        const bytes = Buffer.from(plain);
        cipher.update(bytes.subarray(0, 1024), bytes);
        cipher.update(bytes.subarray(1024), bytes.subarray(1024));
        return bytes;
      });
      return expected !== undefined && found?.equals(expected) === true;
    });
  } catch {
    return false;
  }
};

const native = await findNative();
/** Whether buffers are made for every call. */
export const isNative = native !== undefined && passesExample(native);
const make: Make = native !== undefined && isNative ? native : makeByNode;
