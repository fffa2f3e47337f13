/**
 * A wall clock that a test sets, for servers that the test starts with this environment. Their monotonic clock is not
 * changed.
 */
import { existsSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ensureFaketime } from '../../ops/dev/install.mjs'

const SHARED = '/dev/shm'

export interface Clock {
  env: NodeJS.ProcessEnv
  /** Sets the clock to this many seconds after the true time. */
  set(offset_s: number): void
  /** Removes the clock's files. Call it after the servers have ended. */
  remove(): void
}

export function makeClock(): Clock {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-clock-'))
  const file = join(folder, 'clock')
  const set = (offset_s: number) => {
    // Replace the file in one step, because the servers read it whenever they read their clock.
    writeFileSync(`${file}.next`, `${offset_s < 0 ? '' : '+'}${offset_s}\n`)
    renameSync(`${file}.next`, file)
  }
  set(0)
  return {
    env: {
      // libc must come first after libfaketime: jemalloc's malloc reads the time while libfaketime is looking it up.
      LD_PRELOAD: `${ensureFaketime(() => {})} libc.so.6`,
      FAKETIME_TIMESTAMP_FILE: file,
      FAKETIME_NO_CACHE: '1',
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
    },
    set,
    remove() {
      rmSync(folder, { recursive: true, force: true })
      forgetTheDead()
    },
  }
}

/** Removes the shared memory of killed processes, which libfaketime leaves behind. */
function forgetTheDead(): void {
  for (const name of readdirSync(SHARED)) {
    const pid = Number(/^(?:sem\.)?faketime_(?:sem|shm)_(\d+)$/.exec(name)?.[1])
    if (pid && !existsSync(`/proc/${pid}`)) rmSync(join(SHARED, name), { force: true })
  }
}
