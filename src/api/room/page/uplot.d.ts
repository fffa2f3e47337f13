/** What is served as /room/uplot.js, beside these files: the package's own module. */
export { default } from 'uplot'
