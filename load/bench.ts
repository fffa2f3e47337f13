/** `npm run bench [-- WHAT OPTIONS]`: purchases (the default) or locks; each module says what it measures and how. */
const [what = ''] = process.argv.slice(2)
const named = what !== '' && !what.startsWith('-')
if (named) process.argv.splice(2, 1)
if (!named || what === 'purchases') await import('./bench-purchases.ts')
else if (what === 'locks') await import('./bench-locks.ts')
else {
  process.stderr.write(`bench: there is no benchmark of ${what}; there are purchases and locks\n`)
  process.exitCode = 1
}
