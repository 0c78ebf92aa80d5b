"""The limit of depth: fields and nets as functions of the depth variable, neural ODEs."""
