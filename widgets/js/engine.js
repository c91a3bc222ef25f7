// The only built file of the kit: Graphviz as WebAssembly, for machines without a `dot` program and for JupyterLite.
import { Graphviz } from "@hpcc-js/wasm-graphviz";
export const load = async () => {
  const graphviz = await Graphviz.load();
  return (dot) => graphviz.layout(dot, "json0", "dot");
};
