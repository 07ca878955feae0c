"""The field's data sets as they are unpacked -> manifest, labels and, on request, their own landmarks as streams; a file a set."""
