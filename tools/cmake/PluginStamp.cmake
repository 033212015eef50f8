# Writes OUTPUT, a header that defines LMC_PLUGIN_HEADERS: VERSION and a hash
# of HEADERS, what a plugin is compiled against. As a script, at build time:
#   cmake -DOUTPUT=FILE -DVERSION=V -DHEADERS=LISTFILE -P PluginStamp.cmake
file(STRINGS ${HEADERS} headers)
set(hashes "")
foreach(header IN LISTS headers)
  file(SHA256 ${header} hash)
  string(APPEND hashes ${hash})
endforeach()
string(SHA256 hash "${hashes}")
string(SUBSTRING ${hash} 0 12 hash)
file(WRITE ${OUTPUT}
  "#define LMC_PLUGIN_HEADERS \"${VERSION} (headers ${hash})\"\n")
